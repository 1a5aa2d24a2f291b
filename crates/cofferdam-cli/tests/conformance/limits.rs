//! Limits: of a cgroup above, of swap and CPUs, of a sandbox; those that come later, and warnings before they bite.

use std::path::Path;

use cofferdam_testkit::fixture::{bundle, file, spec};
use cofferdam_testkit::lab::{Lab, eventually, finish, new_command};
use cofferdam_testkit::needs::Need;
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};
use serde_json::{Value, json};

use crate::keeper::kill_supervisor;
use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("limits::all_of_it_dies_at_once", all_of_it_dies_at_once)
        .only(is_no_sandbox)
        .needs(&[Need::PureCgroupV2]),
    case("limits::who_waits_for_memory_is_told_of", who_waits_for_memory_is_told_of)
        .only(is_no_sandbox)
        .needs(&[Need::PureCgroupV2]),
    case("limits::of_a_cgroup_above", of_a_cgroup_above).real(),
    case("limits::swap_shares_and_cpus", swap_shares_and_cpus).real(),
    case("limits::of_a_device", of_a_device).real(),
    case("limits::of_a_bundle", of_a_bundle).real(),
    case("limits::are_put_back_where_a_part_fails", are_put_back_where_a_part_fails).only(is_one_on_v1),
    case("limits::hold_in_the_next_run", hold_in_the_next_run).only(is_one_of_each),
    case("limits::a_quota_that_comes_later", a_quota_that_comes_later).real(),
    case("limits::the_guest_is_shown_what_was_asked_for", the_guest_is_shown_what_was_asked_for)
        .only(Choice::is_gvisor),
    case("limits::a_warning_comes_before", a_warning_comes_before).real(),
    case("limits::files_that_were_read_are_no_warning", files_that_were_read_are_no_warning)
        .only(is_one_of_each),
    case("limits::where_its_own_cgroup_is_the_topmost", where_its_own_cgroup_is_the_topmost).real(),
    case("limits::what_makes_no_sense", what_makes_no_sense).only(is_one_of_each),
];

fn is_no_sandbox(choice: &Choice) -> bool {
    choice.is_real() && !choice.is_gvisor()
}

fn is_one_of_each(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::Crun | Choice::Runsc(RUNSC_DEBIAN))
}

/// v2 kills rather than to refuse.
fn is_one_on_v1(choice: &Choice) -> bool {
    is_one_of_each(choice) && !is_v2()
}

fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// What the cgroup of a sandbox has on top of a limit of memory: the rule of the book.
pub(crate) fn headroom(lab: &Lab, limit: u64) -> u64 {
    if lab.choice.is_gvisor() { (32 << 20) + limit / 32 } else { 0 }
}

/// A file of the container's cgroup, by its names under v1 and v2; empty where there is none.
fn read(lab: &Lab, id: &str, v1: &str, v2: &str) -> String {
    let text = file_of(lab, id, v1, v2).and_then(|path| std::fs::read_to_string(path).ok());
    text.unwrap_or_default().trim().to_owned()
}

fn file_of(lab: &Lab, id: &str, v1: &str, v2: &str) -> Option<String> {
    let leaf = lab.cgroup_of(id);
    let controller = v1.split('.').next().unwrap_or_default();
    // With systemd, crun limits one below the scope.
    let paths = [
        format!("/sys/fs/cgroup/{controller}{leaf}/{v1}"),
        format!("/sys/fs/cgroup{leaf}/container/{v2}"),
        format!("/sys/fs/cgroup{leaf}/{v2}"),
    ];
    paths.into_iter().find(|path| Path::new(path).exists())
}

fn counters(report: &Value) -> &Value {
    report["evidence"].as_array().unwrap().iter().find(|fact| fact["kind"] == "memory").unwrap()
}

fn all_of_it_dies_at_once(lab: &Lab) {
    let script = "tail /dev/zero; exec sleep 1000";
    drop(lab.run(&["--name", "all", "-m", "32m"], &["sh", "-c", script]).expect_code(137));
    let report = lab.report("all");
    assert_eq!(report["cause"], json!({ "kind": "oom_killed", "victim": "init" }), "{report:#}");
}

fn who_waits_for_memory_is_told_of(lab: &Lab) {
    // What it uses stays far below the threshold, and is slowed down all the same, by somebody else's `memory.high`.
    let script = "while :; do head -c 20000000 /dev/zero | tail -c 20000000 > /dev/null; done";
    let id = lab.run_detached(&["-m", "64m", "--memory-warn", "60m"], &["sh", "-c", script]);
    let high = file_of(lab, &id, "none", "memory.high").unwrap();
    eventually("it is told", || {
        // Again and again: it is the tripwire, too, which is laid anew each second.
        std::fs::write(&high, "4m").unwrap();
        !warnings(lab, &id).is_empty()
    });
    assert_eq!(warnings(lab, &id)[0]["reason"], "pressure", "{:?}", warnings(lab, &id));
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn of_a_cgroup_above(lab: &Lab) {
    let limit = if lab.choice.is_gvisor() { 80_u64 << 20 } else { 40 << 20 };
    let parent = lab.cgroup_parent();
    let directory =
        if is_v2() { format!("/sys/fs/cgroup{parent}") } else { format!("/sys/fs/cgroup/memory{parent}") };
    let first = lab.run_detached(&[], &["sleep", "1000"]);
    let limit_file = if is_v2() { "memory.max" } else { "memory.limit_in_bytes" };
    std::fs::write(format!("{directory}/{limit_file}"), limit.to_string()).unwrap();
    let done = lab.run(&["--name", "small", "-m", "200m"], &["tail", "/dev/zero"]).expect_code(137);
    let report = lab.report("small");
    assert_eq!(report["cause"]["kind"], "oom_killed", "{report:#}");
    let scope = &counters(&report)["scope"];
    // The kernel leaves the line out that says so when there are many kills.
    if !scope.is_null() {
        assert_eq!(scope["kind"], "above", "{report:#}");
        assert!(done.stderr.contains("of a cgroup above it"), "{}", done.stderr);
    }
    if let Some(cgroup) = scope["cgroup"].as_str() {
        assert_eq!((cgroup, scope["limit_bytes"].as_u64()), (parent.as_str(), Some(limit)), "{report:#}");
    }
    drop(lab.cofferdam(&["rm", "-f", &first, "small"]).expect_code(0));
    lab.expect_clean();
}

fn swap_shares_and_cpus(lab: &Lab) {
    let options = ["-m", "64m", "--cpu-shares", "512", "--cpuset-cpus", "0", "--cpuset-mems", "0"];
    let id = lab.run_detached(&options, &["sleep", "1000"]);
    let (memory, swap) = ("memory.memsw.limit_in_bytes", "memory.swap.max");
    let held = |both: u64, memory: u64| if is_v2() { both - memory } else { both + headroom(lab, memory) };
    // Swap is as much as memory, unless something else is asked for.
    assert_eq!(read(lab, &id, memory, swap), held(128 << 20, 64 << 20).to_string());
    assert_eq!(read(lab, &id, "cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(read(lab, &id, "cpuset.mems", "cpuset.mems"), "0");
    let shares = read(lab, &id, "cpu.shares", "cpu.weight");
    // Runtimes convert shares to weights in two ways.
    assert!(shares == "512" || is_v2() && ["20", "59"].contains(&shares.as_str()), "{shares}");
    drop(lab.cofferdam(&["update", "--memory-swap", "100m", "--cpu-shares", "2048", &id]).expect_code(0));
    assert_eq!(read(lab, &id, memory, swap), held(100 << 20, 64 << 20).to_string());
    assert_ne!(read(lab, &id, "cpu.shares", "cpu.weight"), shares);
    drop(lab.cofferdam(&["update", "-m", "200m", &id]).expect_error("E0101"));
    drop(lab.cofferdam(&["update", "-m", "200m", "--memory-swap", "-1", &id]).expect_code(0));
    let limits = lab.inspect(&id)["limits"].take();
    assert_eq!((&limits["memory_bytes"], &limits["memory_swap_bytes"]), (&json!(200 << 20), &json!(-1)));
    drop(lab.cofferdam(&["update", "--cpuset-cpus", "0-1", &id]).expect_code(0));
    assert_eq!(read(lab, &id, "cpuset.cpus", "cpuset.cpus"), "0-1");
    drop(lab.cofferdam(&["update", "--cpuset-cpus", "8000", &id]).expect_error("E0101"));
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

/// A bundle's own limits are as good as those of options.
fn of_a_bundle(lab: &Lab) {
    let bundle = |resources: Value| {
        let mut config = spec(&["/bin/sleep", "1000"]);
        config["linux"]["resources"] = resources;
        let name = format!("b{}", lab.path().read_dir().unwrap().count());
        bundle(lab.path(), &name, &config).to_string_lossy().into_owned()
    };
    let parent = lab.cgroup_of("x");
    let parent = parent.rsplit_once('/').unwrap().0.trim_start_matches('/').to_owned();
    let parent = if parent.ends_with(".slice") { parent } else { format!("/{parent}") };
    let launch = |verb: &[&str], path: &str| {
        lab.cofferdam(&[verb, &["--network", "none", "--cgroup-parent", &parent, "--bundle", path]].concat())
    };
    let mine = bundle(json!({ "memory": { "limit": 64 << 20, "swap": 96 << 20 }, "pids": { "limit": 77 } }));
    let id = launch(&["run", "--detach"], &mine).expect_code(0).text();
    let limits = || lab.inspect(&id)["limits"].take();
    assert_eq!((&limits()["memory_bytes"], &limits()["pids"]), (&json!(64 << 20), &json!(77)));
    drop(lab.cofferdam(&["update", "-m", "70m", &id]).expect_code(0));
    assert_eq!(limits()["memory_swap_bytes"], 96 << 20, "it was said");
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    for wrong in [
        json!({ "memory": { "limit": 1 << 20 } }),
        json!({ "memory": { "limit": 64 << 20, "swap": 32 << 20 } }),
        json!({ "cpu": { "cpus": "8000" } }),
    ] {
        let done = launch(&["run"], &bundle(wrong.clone()));
        assert!(
            done.stderr.contains("error[E0101]") || done.stderr.contains("error[E0401]"),
            "{wrong}: {done:?}"
        );
    }
    lab.expect_clean();
}

fn of_a_device(lab: &Lab) {
    let partitions = std::fs::read_to_string("/proc/partitions").unwrap();
    let disk = partitions.lines().skip(2).find_map(|line| {
        let [major, minor, _, name] = line.split_whitespace().collect::<Vec<_>>()[..] else { return None };
        Path::new("/dev").join(name).exists().then(|| (format!("/dev/{name}"), format!("{major}:{minor}")))
    });
    let (disk, number) = disk.expect("this machine has a disk");
    let (bytes, reads) = (format!("{disk}:10m"), format!("{disk}:300"));
    let options = ["--device-read-bps", &bytes, "--device-write-iops", &reads];
    if lab.choice.is_gvisor() && lab.cgroup_of("x").ends_with(".scope") {
        drop(lab.run(&options, &["true"]).expect_error("E0101"));
        return;
    }
    let id = lab.run_detached(&options, &["sleep", "1000"]);
    let of = |file: &str| {
        let text = read(lab, &id, &format!("blkio.throttle.{file}"), "io.max");
        assert!(text.contains(&number), "{text:?} does not name {number}");
        text
    };
    assert!(of("read_bps_device").contains("10485760") && of("write_iops_device").contains("300"));
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn are_put_back_where_a_part_fails(lab: &Lab) {
    let options = ["-m", "128m", "--cpuset-cpus", "0-1", "--pids-limit", "50"];
    let id = lab.run_detached(&options, &["sh", "-c", HOLDS]);
    eventually("it has its traps", || lab.cofferdam(&["logs", &id]).text() == "up");
    drop(lab.cofferdam(&["kill", "-s", "USR1", &id]).expect_code(0));
    let used = || {
        let stats = lab.cofferdam(&["stats", "--format", "json", &id]).expect_code(0).json();
        stats["memory"]["working_set_bytes"].as_u64().unwrap()
    };
    eventually("it holds memory", || used() > 80 << 20);
    let before = lab.inspect(&id)["limits"].take();
    let update = ["update", "-m", "24m", "--cpuset-cpus", "1", "--pids-limit", "60", &id];
    drop(lab.cofferdam(&update).expect_error("E0411"));
    assert_eq!(lab.inspect(&id)["limits"], before);
    assert_eq!(read(lab, &id, "cpuset.cpus", "cpuset.cpus"), "0-1");
    assert_eq!(read(lab, &id, "pids.max", "pids.max"), "50");
    let limit = (128 << 20) + headroom(lab, 128 << 20);
    assert_eq!(read(lab, &id, "memory.limit_in_bytes", "memory.max"), limit.to_string());
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn hold_in_the_next_run(lab: &Lab) {
    let script = "trap 'exit 3' USR1; echo up; while :; do sleep 0.05; done";
    let id = lab.run_detached(&["-m", "64m", "--restart", "always"], &["sh", "-c", script]);
    drop(lab.cofferdam(&["update", "-m", "96m", &id]).expect_code(0));
    eventually("it has its trap", || lab.cofferdam(&["logs", &id]).text() == "up");
    drop(lab.cofferdam(&["kill", "-s", "USR1", &id]).expect_code(0));
    eventually("it runs again", || lab.cofferdam(&["logs", &id]).text() == "up\nup");
    let limit = (96 << 20) + headroom(lab, 96 << 20);
    assert_eq!(read(lab, &id, "memory.limit_in_bytes", "memory.max"), limit.to_string());
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn a_quota_that_comes_later(lab: &Lab) {
    let quota = |id: &str| {
        let text = read(lab, id, "cpu.cfs_quota_us", "cpu.max");
        text.split(' ').next().unwrap_or_default().to_owned()
    };
    let id = lab.run_detached(&["--cpus", "0.5", "--cpu-boost", "1h"], &["sleep", "1000"]);
    assert!(["-1", "max"].contains(&quota(&id).as_str()), "{}", quota(&id));
    assert_eq!(lab.inspect(&id)["limits"]["cpu_quota_us"], 50_000);
    drop(lab.cofferdam(&["update", "--cpus", "0.7", &id]).expect_code(0));
    assert_eq!(quota(&id), "70000", "whoever changes it ends the boost");
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    let id = lab.run_detached(&["--cpus", "0.5", "--cpu-boost", "1s"], &["sleep", "1000"]);
    kill_supervisor(lab, &id);
    eventually("its successor lets it hold", || quota(&id) == "50000");
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

fn the_guest_is_shown_what_was_asked_for(lab: &Lab) {
    let script =
        "grep MemTotal /proc/meminfo; dd if=/dev/zero of=/dev/null bs=88M count=1 2>/dev/null && echo fits";
    let done = lab.run(&["--name", "g", "-m", "100m"], &["sh", "-c", script]).expect_code(0);
    let text = done.text();
    assert!(text.contains("102400 kB") && text.ends_with("fits"), "{text}");
    let container = lab.inspect("g");
    assert_eq!(container["limits"]["memory_bytes"], 100 << 20);
    assert_eq!(container["memory_headroom_bytes"], headroom(lab, 100 << 20));
    // In the runs of a container that is started by a command of its own, too.
    let id = lab.cofferdam(&strs(&lab.launch_args("create", &["-m", "100m"], &["sh", "-c", script])));
    let id = id.expect_code(0).text();
    drop(lab.cofferdam(&["start", &id]).expect_code(0));
    eventually("it has said", || lab.cofferdam(&["logs", &id]).text() == text);
    drop(lab.run(&["--rm", "-m", "100m"], &["nonexistent"]).expect_code(127));
    drop(lab.cofferdam(&["rm", "-f", "g", &id]).expect_code(0));
    lab.expect_clean();
}

fn strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// The warnings of a container by its events.
fn warnings(lab: &Lab, id: &str) -> Vec<Value> {
    let container = format!("container={id}");
    let args = ["events", "--since", "1h", "--until", "0s", "--format", "json"];
    let filters = ["--filter", "event=memory_warning", "--filter", &container];
    let done = lab.cofferdam(&[&args[..], &filters].concat()).expect_code(0);
    done.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Holds so many MiB for each SIGUSR1, and gives them back at SIGUSR2.
const HOLDS: &str = "trap 'dd if=/dev/zero bs=80M count=1 2>/dev/null | sleep 1000 & P=$!' USR1; \
                     trap 'pkill sleep' USR2; echo up; while :; do read -t 0.05 x; done";

fn a_warning_comes_before(lab: &Lab) {
    let options = ["-m", "128m", "--memory-warn", "64m"];
    let id = lab.run_detached(&options, &["sh", "-c", HOLDS]);
    eventually("it has its traps", || lab.cofferdam(&["logs", &id]).text() == "up");
    assert_eq!(warnings(lab, &id), [] as [Value; 0]);
    // As systemd does whenever it writes the properties of a scope again.
    if let Some(tripwire) = file_of(lab, &id, "none", "memory.high") {
        std::fs::write(tripwire, "max").unwrap();
    }
    drop(lab.cofferdam(&["kill", "-s", "USR1", &id]).expect_code(0));
    eventually("it is told", || warnings(lab, &id).len() == 1);
    let warning = warnings(lab, &id).remove(0);
    assert_eq!(warning["reason"], "usage", "{warning:#}");
    let limit = (128 << 20) + headroom(lab, 128 << 20);
    let threshold = (64 << 20) + headroom(lab, 128 << 20) / 2;
    assert_eq!((&warning["threshold_bytes"], &warning["limit_bytes"]), (&json!(threshold), &json!(limit)));
    assert!(warning["working_set_bytes"].as_u64() >= Some(threshold - (2 << 20)), "{warning:#}");
    assert!(["", "max"].contains(&read(lab, &id, "none", "memory.high").as_str()), "nothing slows it down");
    // Killed before it is written down, it would be told twice, which is better than not at all.
    eventually("it is written down", || lab.inspect(&id)["memory_warned"] == true);
    kill_supervisor(lab, &id);
    drop(lab.cofferdam(&["update", "--pids-limit", "100", &id]).expect_code(0));
    let told = warnings(lab, &id);
    assert_eq!(told.len(), 1, "its successor does not tell it again: {told:#?}");
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    // A percentage is one of the limit, and follows it.
    let id = lab.run_detached(&["-m", "512m", "--memory-warn", "50%"], &["sh", "-c", HOLDS]);
    eventually("it has its traps", || lab.cofferdam(&["logs", &id]).text() == "up");
    drop(lab.cofferdam(&["update", "-m", "128m", &id]).expect_code(0));
    kill_supervisor(lab, &id);
    drop(lab.cofferdam(&["kill", "-s", "USR1", &id]).expect_code(0));
    eventually("the next supervisor tells", || !warnings(lab, &id).is_empty());
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

/// A file of so many MiB on a disk, and the option to have it at /large.
fn large_file(mib: usize) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    file(folder.path(), "file", &"x".repeat(mib << 20), 0o644);
    // Out of the cache: what is there is charged to us.
    let written = std::fs::File::open(folder.path().join("file")).unwrap();
    written.sync_all().unwrap();
    rustix::fs::fadvise(&written, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let volume = format!("{}:/large", folder.path().display());
    (folder, volume)
}

fn files_that_were_read_are_no_warning(lab: &Lab) {
    let (_folder, volume) = large_file(200);
    let script = "cat /large/file > /dev/null; echo read; sleep 1000";
    let options = ["-m", "128m", "--memory-warn", "64m", "--volume", &volume];
    let id = lab.run_detached(&options, &["sh", "-c", script]);
    eventually("it has read", || lab.cofferdam(&["logs", &id]).text() == "read");
    let usage: Vec<Value> =
        warnings(lab, &id).into_iter().filter(|warning| warning["reason"] == "usage").collect();
    assert_eq!(usage, [] as [Value; 0]);
    drop(lab.cofferdam(&["rm", "-f", &id]).expect_code(0));
    lab.expect_clean();
}

/// Puts itself into a cgroup of its own in each hierarchy, has that be the topmost, as in a container, and runs what it
/// is given.
const NESTED: &str = r#"
    set -e
    name=$1; shift
    for mount in $(awk '/ - cgroup2? / { print $5 }' /proc/self/mountinfo); do
        mkdir -p $mount/$name
        if [ -f $mount/cgroup.controllers ]; then
            # systemd takes controllers away that no unit needs, but not those that are in use.
            mkdir $mount/$name-hold
            for controller in $(cat $mount/cgroup.controllers); do
                for try in 1 2 3 4 5 6 7 8 9; do
                    /bin/echo +$controller > $mount/cgroup.subtree_control || continue
                    /bin/echo +$controller > $mount/$name-hold/cgroup.subtree_control && break
                done || true
            done 2>/dev/null
        else
            for file in cpuset.cpus cpuset.mems; do
                if [ -f $mount/$file ]; then cat $mount/$file > $mount/$name/$file; fi
            done
        fi
        echo $$ > $mount/$name/cgroup.procs
    done
    exec unshare --cgroup --mount sh -ec '
        cd /
        mounts=$(mktemp)
        awk "/ - cgroup2? / { print \$5, \$0 }" /proc/self/mountinfo > $mounts
        # A pipe would make another process, which stays where it is.
        while read -r mount line; do
            kind=${line#* - }; options=${kind##* }; kind=${kind%% *}
            umount --lazy $mount
            if [ $kind = cgroup ]; then
                mount -t cgroup -o ${options#rw,} none $mount
                continue
            fi
            mount -t cgroup2 none $mount
            mkdir $mount/self; echo $$ > $mount/self/cgroup.procs
            for controller in $(cat $mount/cgroup.controllers); do
                /bin/echo +$controller > $mount/cgroup.subtree_control || true
            done
        done < $mounts
        rm $mounts
        exec "$@"' sh "$@"
"#;

fn where_its_own_cgroup_is_the_topmost(lab: &Lab) {
    let rootfs = lab.rootfs.to_string_lossy();
    let options = ["run", "--name", "n", "-m", "64m", "--rootfs", &rootfs, "tail", "/dev/zero"];
    let inner = lab.command(options);
    let name = format!("nest-{}", lab.path().file_name().unwrap_or_default().to_string_lossy());
    let mut command = new_command("sh");
    command.args(["-c", NESTED, "sh", &name]).arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
    // systemd would make it outside.
    command.env("COFFERDAM_CGROUP_MANAGER", "cgroupfs");
    let done = finish(command).expect_code(137);
    assert!(done.stderr.contains("out of memory: limit 64.0 MiB"), "{}", done.stderr);
    drop(lab.cofferdam(&["rm", "n"]).expect_code(0));
    // Only v2 has it, beside it.
    let _ = std::fs::remove_dir(format!("/sys/fs/cgroup/{name}-hold"));
    for mount in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path()) {
        for nest in [mount.join(&name), mount.clone()].iter().filter(|path| path.ends_with(&name)) {
            // Only v2 has it.
            let _ = std::fs::remove_dir(nest.join("self"));
            eventually("nothing is left in it", || !nest.exists() || std::fs::remove_dir(nest).is_ok());
        }
    }
    lab.expect_clean();
}

fn what_makes_no_sense(lab: &Lab) {
    let wrong: [&[&str]; 13] = [
        &["--memory-swap", "64m"],
        &["-m", "64m", "--memory-swap", "32m"],
        &["--memory-warn", "90%"],
        &["-m", "64m", "--memory-warn", "0%"],
        &["-m", "64m", "--memory-warn", "64m"],
        &["-m", "64m", "--oom-kill", "all"],
        &["--cpu-boost", "1s"],
        &["--cpu-shares", "1"],
        &["--cpuset-cpus", "8000"],
        &["--cpuset-mems", "x"],
        &["--device-read-bps", "/dev/null:1m"],
        &["--device-write-iops", "/dev/nonexistent:10"],
        &["--hugetlb-limit", "2MB"],
    ];
    for options in wrong {
        drop(lab.run(options, &["true"]).expect_error("E0101"));
    }
    if !is_v2() {
        let can_only = lab.run(&["--rm", "-m", "64m", "--oom-kill", "group"], &["true"]).code;
        assert_eq!(can_only, Some(if lab.choice.is_gvisor() { 0 } else { 125 }), "v1 kills one process");
    }
    let code = if is_v2() && !lab.choice.is_gvisor() { 0 } else { 125 };
    drop(lab.run(&["--hugetlb-limit", "2MB=64m", "--rm"], &["true"]).expect_code(code));
    lab.expect_clean();
}
