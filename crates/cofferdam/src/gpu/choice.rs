//! Which GPUs a container gets: a pure function of the wish, of what there is, and of who has what.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::GpuRequest;
use crate::error::{Code, Diagnose};
use crate::id::ContainerId;

/// A GPU of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Its number as `nvidia-smi` counts: in the order of the PCI bus, without those that are excluded.
    pub index: u32,
    /// The number of its device node, `/dev/nvidiaN`.
    pub minor: u32,
    /// Its UUID, such as `GPU-5d1b2c3a-…`.
    pub uuid: String,
    /// Its model's name, such as `NVIDIA H100 80GB HBM3`.
    pub model: String,
    /// Its address on the PCI bus.
    pub bus: String,
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.index, self.model, self.uuid)
    }
}

/// Somebody has a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its address on the PCI bus, which is known before its UUID is.
    pub gpu: String,
    /// Who.
    pub container: ContainerId,
    /// Whether for itself alone.
    pub exclusive: bool,
}

/// GPUs that cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// There is no driver.
    #[error("there is no NVIDIA driver on this host: {0}")]
    NoDriver(String),
    /// There is none like that.
    #[error("there is no GPU `{wanted}`; {there}")]
    Unknown {
        /// What was asked for.
        wanted: String,
        /// What there is.
        there: String,
    },
    /// There are not so many.
    #[error("GPUs asked for: {wanted}, there: {count}{what}")]
    TooFew {
        /// How many are asked for.
        wanted: u32,
        /// How many there are.
        count: usize,
        /// Of what kind, and which are hidden.
        what: String,
    },
    /// A device node is missing, or cannot be opened.
    #[error("the device node {path} cannot be opened: {why}")]
    Node {
        /// Its path.
        path: String,
        /// Why.
        why: String,
    },
    /// A part of one, for gVisor.
    #[error("it is a part of a GPU (MIG), and gVisor's nvproxy serves whole GPUs only")]
    Part,
    /// A description gives another one than was chosen.
    #[error("the description of the GPUs gives /dev/nvidia{0}, which is none of those that were chosen")]
    OtherNode(u32),
    /// A node of no GPU that the driver has.
    #[error("/dev/nvidia{0} is asked for, and is no GPU that the driver has")]
    UnknownNode(u32),
    /// A name fits several.
    #[error("`{0}` is the beginning of several GPUs' UUIDs")]
    Ambiguous(String),
    /// Others were quicker every time.
    #[error("others took the GPUs each time that some were chosen")]
    Contended,
    /// Others have them.
    #[error("GPUs asked for: {wanted}, free: {free} of {count}: {holders}")]
    Taken {
        /// How many are asked for.
        wanted: u32,
        /// How many are free.
        free: usize,
        /// How many there are.
        count: usize,
        /// Who has the others.
        holders: String,
        /// Whether they share them.
        is_shared: bool,
    },
}

impl Diagnose for GpuError {
    fn code(&self) -> Code {
        match self {
            Self::NoDriver(_) | Self::Node { .. } => Code::DriverMissing,
            Self::Unknown { .. } | Self::TooFew { .. } | Self::Ambiguous(_) | Self::UnknownNode(_) => {
                Code::NoSuchGpu
            }
            Self::OtherNode(_) => Code::CdiStale,
            Self::Part => Code::GpuUnsupported,
            Self::Contended | Self::Taken { .. } => Code::GpusTaken,
        }
    }

    fn next_step(&self) -> Option<String> {
        Some(match self {
            Self::NoDriver(_) => "install the driver, and see that `nvidia-smi` works on the host".into(),
            Self::Ambiguous(_) => "write more of it".into(),
            Self::OtherNode(_) => "make the description anew: `cofferdam cdi generate --output FILE`".into(),
            Self::Unknown { .. } | Self::TooFew { .. } | Self::UnknownNode(_) => {
                "`cofferdam info` lists the GPUs; NVIDIA_VISIBLE_DEVICES of cofferdam itself hides those that it does \
                 not name"
                    .into()
            }
            Self::Node { .. } => {
                "`nvidia-modprobe -u -c 0` makes the nodes; gVisor's nvproxy opens them by these paths".into()
            }
            Self::Part => "use --runtime runc for it, or a whole GPU".into(),
            Self::Contended => "try again".into(),
            Self::Taken { is_shared: true, .. } => {
                "share them, too (--device nvidia.com/gpu=INDEX), or wait until these containers have ended".into()
            }
            Self::Taken { .. } => {
                "wait until one of these containers has ended (`cofferdam wait`); `cofferdam ps --all` shows one that \
                 has and could not be cleared away, which `cofferdam rm` does"
                    .into()
            }
        })
    }
}

/// The GPUs that this process may give, by `NVIDIA_VISIBLE_DEVICES` of its own. `void` and the empty one say nothing: who
/// is given GPUs by CDI, as a worker in a pod, has them too, and its device nodes say which.
#[must_use]
pub fn visible<'a>(gpus: &'a [Gpu], variable: Option<&str>) -> Vec<&'a Gpu> {
    let Some(list) = variable.filter(|list| !matches!(list.trim(), "" | "void")) else {
        return gpus.iter().collect();
    };
    let names: Vec<&str> = list.split(',').map(str::trim).collect();
    let is_named = |gpu: &&Gpu| names.iter().any(|name| *name == "all" || is_called(gpu, name));
    gpus.iter().filter(is_named).collect()
}

/// Whether a GPU is meant by an index or a UUID, which may be cut short as `nvidia-smi` takes it.
fn is_called(gpu: &Gpu, name: &str) -> bool {
    /// `GPU-` and the shortest beginning that is taken.
    const SHORTEST: usize = 8;
    name == gpu.index.to_string() || (name.len() >= SHORTEST && gpu.uuid.starts_with(name))
}

/// Chooses GPUs, for one container alone, or to be shared.
///
/// # Errors
/// [`GpuError`] says what there is, and who has it.
pub fn choose(
    request: &GpuRequest,
    visible: &[&Gpu],
    leases: &[Lease],
    exclusive: bool,
) -> Result<Vec<Gpu>, GpuError> {
    let is_free = |gpu: &Gpu| !leases.iter().any(|l| l.gpu == gpu.bus && (exclusive || l.exclusive));
    let (wanted, candidates, what) = match request {
        GpuRequest::All => (visible.len(), visible.to_vec(), String::new()),
        GpuRequest::Count(count) => (to_usize(*count), visible.to_vec(), String::new()),
        GpuRequest::Named(names) => {
            let named = named(names, visible)?;
            (named.len(), named, String::new())
        }
        GpuRequest::Model { model, count } => {
            let is_model = |gpu: &&&Gpu| gpu.model.to_lowercase().contains(&model.to_lowercase());
            let fitting: Vec<&Gpu> = visible.iter().filter(is_model).copied().collect();
            (to_usize(*count), fitting, format!(" whose model has `{model}` in its name"))
        }
    };
    let count = candidates.len();
    let wanted_number = u32::try_from(wanted).unwrap_or(u32::MAX);
    if wanted > count || count == 0 {
        let what = if what.is_empty() { " that may be given".to_owned() } else { what };
        return Err(GpuError::TooFew { wanted: wanted_number.max(1), count, what });
    }
    let free: Vec<&Gpu> = candidates.iter().filter(|gpu| is_free(gpu)).copied().collect();
    if free.len() < wanted {
        let held = || leases.iter().filter(|l| candidates.iter().any(|gpu| gpu.bus == l.gpu));
        let holders = holders(held(), visible);
        let is_shared = held().all(|lease| !lease.exclusive);
        return Err(GpuError::Taken { wanted: wanted_number, free: free.len(), count, holders, is_shared });
    }
    Ok(free.into_iter().take(wanted).cloned().collect())
}

fn to_usize(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn named<'a>(names: &[String], visible: &[&'a Gpu]) -> Result<Vec<&'a Gpu>, GpuError> {
    let mut found: Vec<&Gpu> = Vec::new();
    for name in names {
        let mut called = visible.iter().filter(|gpu| is_called(gpu, name)).copied();
        let unknown = || GpuError::Unknown { wanted: name.clone(), there: list(visible) };
        let gpu = called.next().ok_or_else(unknown)?;
        if called.next().is_some() {
            return Err(GpuError::Ambiguous(name.clone()));
        }
        if !found.contains(&gpu) {
            found.push(gpu);
        }
    }
    Ok(found)
}

fn list(gpus: &[&Gpu]) -> String {
    if gpus.is_empty() {
        return "there is none that may be given".into();
    }
    let names: Vec<String> = gpus.iter().map(ToString::to_string).collect();
    format!("there is {}", names.join(", "))
}

fn holders<'a>(leases: impl Iterator<Item = &'a Lease>, gpus: &[&Gpu]) -> String {
    let mut by_container: BTreeMap<(String, bool), BTreeSet<u32>> = BTreeMap::new();
    for lease in leases {
        let id = lease.container.as_str().chars().take(crate::id::SHORT_ID_LENGTH).collect();
        let index = gpus.iter().find(|gpu| gpu.bus == lease.gpu).map(|gpu| gpu.index);
        by_container.entry((id, lease.exclusive)).or_default().extend(index);
    }
    let text = |((id, exclusive), indices): ((String, bool), BTreeSet<u32>)| {
        let indices: Vec<String> = indices.iter().map(u32::to_string).collect();
        format!("{id} has {}{}", indices.join("+"), if exclusive { "" } else { " shared" })
    };
    by_container.into_iter().map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// So many GPUs, of which every other one is an A100.
    pub(crate) fn gpus(count: u32) -> Vec<Gpu> {
        let gpu = |index: u32| Gpu {
            index,
            minor: index,
            uuid: format!("GPU-{index:08x}-0000-0000-0000-000000000000"),
            model: if index.is_multiple_of(2) { "NVIDIA H100 80GB HBM3" } else { "NVIDIA A100-SXM4-40GB" }
                .into(),
            bus: format!("0000:{index:02x}:00.0"),
        };
        (0..count).map(gpu).collect()
    }

    fn lease(gpu: &Gpu, exclusive: bool) -> Lease {
        Lease { gpu: gpu.bus.clone(), container: ContainerId::generate(), exclusive }
    }

    fn numbers(chosen: Result<Vec<Gpu>, GpuError>) -> Result<Vec<u32>, String> {
        chosen.map(|gpus| gpus.iter().map(|gpu| gpu.index).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn free_ones_are_chosen_in_their_order() {
        let all = gpus(4);
        let seen: Vec<&Gpu> = all.iter().collect();
        let pick = |request: &GpuRequest, leases: &[Lease], exclusive| {
            numbers(choose(request, &seen, leases, exclusive))
        };
        let named = |names: &[&str]| GpuRequest::Named(names.iter().map(|&name| name.to_owned()).collect());
        let first = [lease(&all[0], true)];
        assert_eq!(pick(&GpuRequest::Count(2), &first, true), Ok(vec![1, 2]));
        assert_eq!(pick(&GpuRequest::All, &[], true), Ok(vec![0, 1, 2, 3]));
        assert_eq!(pick(&named(&["3", "GPU-00000001", "3"]), &first, true), Ok(vec![3, 1]));
        let model = GpuRequest::Model { model: "a100".into(), count: 2 };
        assert_eq!(pick(&model, &first, true), Ok(vec![1, 3]));
        let error = pick(&GpuRequest::Count(4), &first, true).unwrap_err();
        assert!(error.starts_with("GPUs asked for: 4, free: 3 of 4: "), "{error}");
        assert!(pick(&GpuRequest::All, &first, true).unwrap_err().contains(" has 0"));
        assert!(pick(&named(&["0"]), &first, false).is_err(), "not even shared");
        let shared = [lease(&all[0], false)];
        assert_eq!(pick(&named(&["0"]), &shared, false), Ok(vec![0]));
        assert!(pick(&named(&["0"]), &shared, true).unwrap_err().contains("has 0 shared"));
        let error = pick(&named(&["4"]), &[], true).unwrap_err();
        assert!(error.contains("no GPU `4`") && error.contains("3 (NVIDIA A100"), "{error}");
        assert!(pick(&GpuRequest::Count(5), &[], true).unwrap_err().contains("there: 4 that may be given"));
        let model = GpuRequest::Model { model: "L4".into(), count: 1 };
        assert!(pick(&model, &[], true).unwrap_err().contains("`L4`"));
        assert!(choose(&GpuRequest::All, &[], &[], true).is_err(), "all of none");
    }

    #[test]
    fn our_own_variable_hides_the_others() {
        let all = gpus(3);
        let seen = |variable| visible(&all, variable).iter().map(|gpu| gpu.index).collect::<Vec<_>>();
        assert_eq!((seen(None), seen(Some("all"))), (vec![0, 1, 2], vec![0, 1, 2]));
        assert_eq!(
            (seen(Some("")), seen(Some("void")), seen(Some("none"))),
            (vec![0, 1, 2], vec![0, 1, 2], vec![])
        );
        assert_eq!((seen(Some("1,all")), seen(Some(" all"))), (vec![0, 1, 2], vec![0, 1, 2]));
        assert_eq!((seen(Some("2, 0")), seen(Some("7"))), (vec![0, 2], vec![]));
        assert_eq!(seen(Some("GPU-00000001-0000-0000-0000-000000000000")), [1]);
        assert_eq!(seen(Some("GPU-")), Vec::<u32>::new());
    }
}
