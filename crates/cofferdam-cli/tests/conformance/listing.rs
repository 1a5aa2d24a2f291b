//! The list of every container on the machine, and the answer to whoever sees nothing.

use std::path::Path;

use cofferdam_testkit::fixture::{bundle, spec};
use cofferdam_testkit::lab::{Lab, finish, new_command};
use serde_json::Value;

use crate::{Case, case};

pub(crate) const CASES: &[Case] = &[
    case("listing::our_own_with_all_that_is_known", our_own_with_all_that_is_known),
    case("listing::a_foreign_container_in_a_named_root", a_foreign_container_in_a_named_root).real(),
    case("listing::a_living_sandbox_is_found_without_its_root", a_living_sandbox_is_found_without_its_root)
        .only(cofferdam_testkit::runtimes::Choice::is_gvisor),
    case("listing::one_broken_record_costs_one_warning", one_broken_record_costs_one_warning),
];

fn rows(lab: &Lab, args: &[&str]) -> Vec<Value> {
    let args: Vec<&str> = ["list", "--format", "json"].iter().chain(args).copied().collect();
    let done = lab.cofferdam(&args).expect_code(0);
    done.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn our_own_with_all_that_is_known(lab: &Lab) {
    let id = lab.run_detached(&["--name", "mine"], &["sleep", "1000"]);
    drop(lab.run(&["--name", "done"], &["sh", "-c", "exit 7"]).expect_code(7));
    let rows = rows(lab, &["--own"]);
    assert_eq!(rows.len(), 2);
    let mine = &rows[0];
    assert_eq!((mine["id"].as_str(), mine["status"].as_str()), (Some(id.as_str()), Some("running")));
    assert_eq!(mine["root"].as_str().unwrap(), lab.runtime_root().to_string_lossy());
    assert!(mine["pid"].as_i64().unwrap() > 0 && mine["created"].is_string() && mine["ours"] == true);
    assert_eq!((rows[1]["status"].as_str(), rows[1]["exit_code"].as_i64()), (Some("stopped"), Some(7)));
    let table = lab.cofferdam(&["ps", "--own"]).expect_code(0).text();
    assert!(
        table.starts_with("CONTAINER ID") && table.contains("mine") && !table.contains("done"),
        "{table}"
    );
    let all = lab.cofferdam(&["ps", "--own", "-a"]).expect_code(0).text();
    assert!(all.contains("exited (7)"), "{all}");
    let format =
        lab.cofferdam(&["ps", "--own", "--format", "{{.ID}} {{.Name}} {{.Pid}}"]).expect_code(0).text();
    assert!(format.starts_with(&format!("{id} mine ")), "{format}");
    drop(lab.cofferdam(&["ps", "--format", "{{.Nope}}", "-a", "--own"]).expect_error("E0101"));
    drop(lab.cofferdam(&["ps", "--filter", "nope=1"]).expect_error("E0101"));
    drop(lab.cofferdam(&["rm", "-f", "mine", "done"]).expect_code(0));
    lab.expect_clean();
}

/// A container that somebody made with the runtime's own command, in a root of their own.
struct Foreign<'a> {
    lab: &'a Lab,
    root: String,
}

impl<'a> Foreign<'a> {
    fn start(lab: &'a Lab) -> Self {
        let root = lab.path().join("foreign").to_string_lossy().into_owned();
        let mut config = spec(&["/bin/sleep", "1000"]);
        config["linux"]["cgroupsPath"] = format!("{}/foreign", lab.cgroup_parent()).into();
        let path = bundle(lab.path(), "b", &config);
        let foreign = Self { lab, root };
        // gVisor's oldest release fails now and then on a loaded machine, and it is not what is tested here.
        let made = (0..6).any(|_| foreign.try_to_run(&path));
        assert!(made, "the runtime's own command");
        foreign
    }

    fn try_to_run(&self, path: &Path) -> bool {
        let mut command = self.runtime();
        if self.lab.choice.is_gvisor() {
            command.args(["--network=none", "--ignore-cgroups"]);
        }
        command.args(["run", "--detach", "--bundle", &path.to_string_lossy(), "theirs"]);
        // Its streams must not be pipes that somebody waits for.
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let made = command.status().unwrap().success();
        if !made {
            let mut command = self.runtime();
            command.args(["delete", "--force", "theirs"]);
            drop(finish(command));
        }
        made
    }

    fn runtime(&self) -> std::process::Command {
        let mut command = new_command(self.lab.runtime());
        command.args(["--root", &self.root]);
        command
    }
}

impl Drop for Foreign<'_> {
    fn drop(&mut self) {
        let mut command = self.runtime();
        command.args(["delete", "--force", "theirs"]);
        drop(finish(command));
        // runsc of 2026 pins a namespace in the root, unless it is told not to.
        let pinned = format!("{}/null-netns", self.root);
        if std::path::Path::new(&pinned).exists() {
            let mut command = new_command("umount");
            command.arg(pinned);
            drop(finish(command));
        }
    }
}

fn a_foreign_container_in_a_named_root(lab: &Lab) {
    let foreign = Foreign::start(lab);
    let kind = lab.runtime().file_name().unwrap().to_string_lossy();
    let rows = rows(lab, &["--root", &format!("{kind}={}", foreign.root)]);
    let is_it = |row: &&Value| row["id"] == "theirs" && row["root"] == foreign.root.as_str();
    let row = rows.iter().find(is_it).unwrap_or_else(|| panic!("{rows:#?}"));
    assert_eq!((row["status"].as_str(), row["ours"].as_bool()), (Some("running"), Some(false)));
    assert!(row["bundle"].as_str().unwrap().ends_with("/b") && row["created"].is_string(), "{row}");
    // It is not ours to end.
    drop(lab.cofferdam(&["kill", "theirs"]).expect_error("E0103"));
    drop(lab.cofferdam(&["rm", "-f", "theirs"]).expect_code(0));
    assert_eq!(
        finish({
            let mut c = foreign.runtime();
            c.args(["state", "theirs"]);
            c
        })
        .json()["status"],
        "running"
    );
}

fn a_living_sandbox_is_found_without_its_root(lab: &Lab) {
    let foreign = Foreign::start(lab);
    let rows = rows(lab, &[]);
    assert!(
        rows.iter().any(|row| row["id"] == "theirs" && row["root"] == foreign.root.as_str()),
        "{rows:#?}"
    );
    // Whoever could have put anything there does not get root to read it.
    std::os::unix::fs::chown(&foreign.root, Some(65534), None).unwrap();
    let done = lab.cofferdam(&["list", "--format", "json"]).expect_code(0);
    assert!(!done.text().contains(&foreign.root), "{}", done.text());
    assert!(done.stderr.contains("it belongs to the user 65534"), "{}", done.stderr);
    // Unless he says so himself.
    let named = format!("runsc={}", foreign.root);
    let done = lab.cofferdam(&["list", "--format", "json", "--root", &named]).expect_code(0);
    assert!(done.text().contains(&foreign.root), "{}", done.text());
    std::os::unix::fs::chown(&foreign.root, Some(0), None).unwrap();
}

fn one_broken_record_costs_one_warning(lab: &Lab) {
    let good = lab.run_detached(&["--name", "good"], &["sleep", "1000"]);
    let bad = lab.run_detached(&["--name", "bad"], &["sleep", "1000"]);
    let record = lab.state().join("containers").join(&bad).join("record.json");
    let intact = std::fs::read(&record).unwrap();
    for (content, code) in
        [(&b"{\"version\": 1, \"id\":"[..], "E0602"), (b"{\"version\": 99}", "E0603"), (b"\xff", "E0602")]
    {
        std::fs::write(&record, content).unwrap();
        let done = lab.cofferdam(&["ps", "--own", "-q", "--no-trunc"]).expect_code(0);
        assert_eq!(done.text(), good);
        assert!(done.stderr.contains("warning") && done.stderr.contains(&bad), "{}", done.stderr);
        drop(lab.cofferdam(&["inspect", "bad"]).expect_error(code));
    }
    // What cannot be read can be removed, processes and all.
    drop(lab.cofferdam(&["rm", "bad"]).expect_error("E0602"));
    let done = lab.cofferdam(&["rm", "--force", "bad"]).expect_code(0);
    assert!(done.stderr.contains("removed all the same"), "{}", done.stderr);
    drop((intact, lab.cofferdam(&["rm", "-f", "good"]).expect_code(0)));
    lab.expect_clean();
}
