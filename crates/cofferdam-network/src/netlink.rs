//! Links and addresses of the network namespace that the calling thread is in.
//!
//! Each function has its own socket and event loop, so that it can be called by a thread that is in another namespace.

use std::io;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{Handle, LinkUnspec};
use rustix::io::Errno;

/// Name of the loopback interface, in every namespace.
const LOOPBACK: &str = "lo";

/// Sets the loopback up.
pub(crate) fn loopback_up() -> io::Result<()> {
    with_handle(async |handle| {
        let index = index(&handle, LOOPBACK).await?;
        handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await
    })
}

/// Gives a link those addresses that it lacks.
pub(crate) fn restore_addresses(link: &str, addresses: &[IpNet]) -> io::Result<()> {
    with_handle(async |handle| {
        let index = index(&handle, link).await?;
        for address in addresses {
            let added = handle.address().add(index, address.addr(), address.prefix_len()).execute().await;
            match added {
                Err(error) if is(&error, Errno::EXIST) => {}
                result => result?,
            }
        }
        Ok(())
    })
}

/// The MTU of a link, in bytes; `None` when there is no such link.
pub(crate) fn mtu(link: &str) -> io::Result<Option<u32>> {
    with_handle(async |handle| {
        let found = match handle.link().get().match_name(link.to_owned()).execute().try_next().await {
            Err(error) if is(&error, Errno::NODEV) => None,
            found => found?,
        };
        let attributes = found.map(|message| message.attributes).unwrap_or_default();
        Ok(attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(mtu),
            _ => None,
        }))
    })
}

/// Removes a link, if there is one.
pub(crate) fn remove_link(link: &str) -> io::Result<()> {
    with_handle(async |handle| match index(&handle, link).await {
        Ok(index) => handle.link().del(index).execute().await,
        Err(error) if is(&error, Errno::NODEV) => Ok(()),
        Err(error) => Err(error),
    })
}

async fn index(handle: &Handle, link: &str) -> Result<u32, rtnetlink::Error> {
    let found = handle.link().get().match_name(link.to_owned()).execute().try_next().await?;
    found.map(|message| message.header.index).ok_or(rtnetlink::Error::RequestFailed)
}

fn is(error: &rtnetlink::Error, errno: Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno.raw_os_error())
}

/// On a thread of its own, since the caller's may be one of an event loop. It is in the caller's namespace.
fn with_handle<T: Send>(
    act: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error> + Send,
) -> io::Result<T> {
    let connect_and_act = || {
        let event_loop = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        event_loop.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            let connection = tokio::spawn(connection);
            let done = act(handle).await;
            connection.abort();
            done.map_err(|error| match error {
                rtnetlink::Error::NetlinkError(message) => message.to_io(),
                other => io::Error::other(other),
            })
        })
    };
    let panicked = |_| Err(io::Error::other("the thread of netlink panicked"));
    std::thread::scope(|scope| scope.spawn(connect_and_act).join().unwrap_or_else(panicked))
}
