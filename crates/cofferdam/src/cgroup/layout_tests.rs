//! Hierarchies as the kernel shows them.

use super::*;
use crate::id::ContainerId;

const HYBRID: &str = "\
27 1 254:0 / / rw,relatime - ext4 /dev/root rw
31 27 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:28 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
36 31 0:31 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:35 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:36 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

const PURE_V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

#[test]
fn a_process_is_where_its_own_file_says() {
    let v2 = Cgroups::from_mountinfo(PURE_V2, |_| Delegation::of_all(&["memory"]));
    let found = |cgroups: &Cgroups, text: &str| cgroups.path_in(text).map(|path| path.as_str().to_owned());
    assert_eq!(found(&v2, "0::/a.slice/b.scope\n").as_deref(), Some("/a.slice/b.scope"));
    assert_eq!(found(&v2, "0::/\n"), None);
    let hybrid = Cgroups::from_mountinfo(HYBRID, |_| Delegation::default());
    let text = "5:memory:/m/x\n1:name=systemd:/s\n0::/u\n";
    assert_eq!(found(&hybrid, text).as_deref(), Some("/m/x"));
    // In a container that shares the host's cgroup namespace, its own cgroup is mounted as the topmost.
    let nested = PURE_V2.replace("0:26 / ", "0:26 /docker/a\\040b ");
    let nested = Cgroups::from_mountinfo(&nested, |_| Delegation::of_all(&["memory"]));
    assert_eq!(found(&nested, "0::/docker/a b/x\n").as_deref(), Some("/x"));
    assert_eq!(found(&nested, "0::/docker/a bc/x\n").as_deref(), Some("/docker/a bc/x"));
    assert_eq!(found(&v2, "garbage"), None);
}

#[test]
fn cpus_must_be_there() {
    let mut cgroups = Cgroups::from_mountinfo(PURE_V2, |_| Delegation::of_all(&["cpuset"]));
    let cpus = |list: &str| Limits { cpuset_cpus: Some(list.into()), ..Limits::default() };
    assert!(cgroups.check_cpusets(&cpus("7")).is_ok(), "nobody knows");
    (cgroups.cpus, cgroups.memory_nodes) = ("0-3".into(), "0".into());
    assert!(cgroups.check_cpusets(&cpus("1,3")).is_ok() && cgroups.check_cpusets(&cpus("x")).is_err());
    let nodes = Limits { cpuset_mems: Some("0-1".into()), ..Limits::default() };
    let refused = cgroups.check_cpusets(&nodes).unwrap_err();
    assert_eq!(refused.to_string(), "--cpuset-mems: 0-1 is not there; there is 0");
}

fn path() -> CgroupPath {
    CgroupPath::of_container(&"0123456789abcdef0123456789abcdef".parse::<ContainerId>().unwrap(), None)
}

#[test]
fn hybrid_keeps_memory_on_v1() {
    let cgroups = Cgroups::from_mountinfo(HYBRID, |_| Delegation::of_all(&["hugetlb"]));
    assert_eq!(cgroups.layout, CgroupLayout::Hybrid);
    assert!(cgroups.has("memory") && !cgroups.has("name=systemd"));
    assert!(!cgroups.has("hugetlb"), "no runtime uses it there");
    assert_eq!(cgroups.out_of_reach, ["hugetlb"]);
    let leaf = format!("cofferdam-{}", "0123456789abcdef".repeat(2));
    let memory = PathBuf::from("/sys/fs/cgroup/memory").join(leaf);
    assert_eq!(cgroups.directory_of(&path(), "memory"), Some(ControllerDirectory::V1(memory)));
    assert_eq!(cgroups.directories_of(&path()).len(), 5);
    assert_eq!(cgroups.top(), Path::new("/sys/fs/cgroup"));
}

#[test]
fn pure_v2_has_one_directory_for_all() {
    let cgroups = Cgroups::from_mountinfo(PURE_V2, |_| Delegation::of_all(&["cpu", "memory"]));
    assert_eq!(cgroups.layout, CgroupLayout::V2);
    assert!(matches!(cgroups.directory_of(&path(), "memory"), Some(ControllerDirectory::V2(_))));
    assert_eq!(cgroups.directories_of(&path()).len(), 1);
}

#[test]
fn a_nested_cgroup_with_processes_gives_only_what_it_gives_already() {
    let top = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(top.path().join(name), text).unwrap();
    write("cgroup.controllers", "cpu memory pids\n");
    write("cgroup.subtree_control", "cpu\n");
    write("cgroup.procs", "1\n");
    let all = Delegation::of_all(&["cpu", "memory", "pids"]);
    assert_eq!(Delegation::at(top.path()), all, "the real root");
    write("cgroup.type", "domain\n");
    let kept = ["memory", "pids"].map(str::to_owned).to_vec();
    assert_eq!(Delegation::at(top.path()), Delegation { kept, ..Delegation::of_all(&["cpu"]) });
    write("cgroup.procs", "");
    assert_eq!(Delegation::at(top.path()), all);
}

#[test]
fn nothing_mounted_is_said() {
    assert_eq!(Cgroups::from_mountinfo("", |_| Delegation::default()).layout, CgroupLayout::None);
    assert_eq!(
        Cgroups::from_mountinfo("garbage\n - \n", |_| Delegation::default()).layout,
        CgroupLayout::None
    );
}

#[test]
fn a_parent_is_kept() {
    let id = ContainerId::generate();
    assert_eq!(CgroupPath::of_container(&id, Some("/team/a/")).as_str(), format!("/team/a/cofferdam-{id}"));
    assert_eq!(CgroupPath::of_container(&id, Some("/")).as_str(), format!("/cofferdam-{id}"));
}

#[test]
fn escaped_mount_points_are_read() {
    assert_eq!(unescape_octal(r"/a\040b\134c"), Path::new(r"/a b\c"));
    assert_eq!(unescape_octal(r"/a\9"), Path::new(r"/a\9"));
}
