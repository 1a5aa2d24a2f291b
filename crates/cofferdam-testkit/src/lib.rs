//! What the tests of cofferdam share. A dev-dependency, never part of the product.
//!
//! - [`needs`]: what a test needs of the machine; what is missing is a visible skip at home and a failure in CI.
//! - [`runtimes`]: the real runtimes that are here, old and new, and the fake one.
//! - [`fixture`]: a root filesystem of busybox, and bundles.
//! - [`image`]: images of busybox, good and bad, made by hand.
//! - [`gpu_host`]: the files of a host with GPUs.
//! - [`lab`]: one state directory, one runtime, and the binary `cofferdam` run against them.
//! - [`command`]: commands that are started, and waited for with a limit.
//! - [`private_host`]: a network and mounts of its own for a test.
//! - [`registry`]: a real registry, and images in it.
//! - [`http_faults`]: a server before another, which fails as it is told.
//! - [`census`]: everything that a container can leave behind on a machine, before and after.
//! - [`oom_latency`]: how soon an out-of-memory kill is told.
//! - [`fake`]: the plan of faults that the fake runtime follows.

pub mod census;
pub mod command;
pub mod fake;
pub mod fixture;
pub mod gpu_host;
pub mod http_faults;
pub mod image;
pub mod lab;
pub mod needs;
pub mod oom_latency;
pub mod private_host;
pub mod process;
pub mod registry;
pub mod runtimes;
pub mod suite;
