//! The options that connect a container.

use clap::Args;
use cofferdam::request::{LaunchRequest, NamesRequest};

/// How a container is connected, and how it knows names.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkArgs {
    /// none, host, bridge or another network of CNI, container:NAME, or ns:PATH for a prepared network namespace
    /// [default: the bundle's; bridge with --publish; or none]
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    network: Option<String>,
    /// Publish a port: [ADDRESS:][HOST:]CONTAINER[/udp]. Without an address at 127.0.0.1 alone
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<String>,
    /// Publish each port that the image says it listens on, at free ones of the host
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// What the container may reach: none, public, or allow:CIDR[:PORT],HOST[:PORT],*.DOMAIN[:PORT],…
    #[arg(long, value_name = "POLICY")]
    egress: Option<String>,
    /// Ask these resolvers for names, in place of the host's
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Search these domains; . for none
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Options of the resolver, such as ndots:1
    #[arg(long, value_name = "OPTION")]
    dns_option: Vec<String>,
    /// A further line of /etc/hosts; host-gateway as the address is the host's
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
}

impl NetworkArgs {
    pub(super) fn fill(&self, request: &mut LaunchRequest) {
        request.network.clone_from(&self.network);
        request.publish.clone_from(&self.publish);
        request.publish_all = self.publish_all;
        request.egress.clone_from(&self.egress);
        request.names = NamesRequest {
            dns: self.dns.clone(),
            search: self.dns_search.clone(),
            options: self.dns_option.clone(),
            hosts: self.add_host.clone(),
        };
    }
}
