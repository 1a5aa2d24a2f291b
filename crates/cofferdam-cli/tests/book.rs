//! The examples of the README, of the book and of `--help`, run as they are printed.
#![expect(clippy::unwrap_used, reason = "this is a test, though not one of the standard harness")]

use std::path::Path;
use std::process::ExitCode;

use cofferdam_testkit::fixture::{bundle, rootfs, spec};
use cofferdam_testkit::needs::Need;
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN, workspace};
use cofferdam_testkit::suite::{run, trial};

/// What the examples run against.
const NEEDS: [Need; 4] =
    [Need::Root, Need::Busybox, Need::Runtime(Choice::Runc), Need::Runtime(Choice::Runsc(RUNSC_DEBIAN))];

/// Files whose examples need the directory that their text makes.
const BOOK: [&str; 4] =
    ["README.md", "docs/src/guide/*.md", "docs/src/reference/*.md", "docs/src/troubleshooting/*.md"];

fn main() -> ExitCode {
    run(vec![
        // One trial: the current directory is the whole process's.
        trial("book", &NEEDS, || {
            let home = tempfile::Builder::new().prefix("cfk").tempdir_in("/tmp").unwrap();
            prepare(home.path());
            std::env::set_current_dir(home.path()).unwrap();
            check(&BOOK, home.path());
        }),
        trial("help", &[Need::Root], || {
            let home = tempfile::Builder::new().prefix("cfk").tempdir_in("/tmp").unwrap();
            check(&["crates/cofferdam-cli/tests/help/*.trycmd"], home.path());
        }),
    ])
}

/// Runs the examples of some files.
fn check(files: &[&str], home: &Path) {
    let cases = trycmd::TestCases::new();
    for file in files {
        cases.case(workspace().join(file));
    }
    // The examples say `gvisor`, which is looked for along PATH; the release that they were written for comes first.
    let path = std::env::var("PATH").unwrap_or_default();
    let runsc = cofferdam_testkit::runtimes::fetched(RUNSC_DEBIAN);
    let first = runsc.parent().unwrap_or_else(|| Path::new("/"));
    cases
        .register_bin("cofferdam", trycmd::schema::Bin::Path(env!("CARGO_BIN_EXE_cofferdam").into()))
        .env("PATH", format!("{}:{path}", first.canonicalize().unwrap_or_default().display()))
        .env("COFFERDAM_STATE_DIR", home.join("s").to_string_lossy())
        .env("COFFERDAM_DATA_DIR", home.join("d").to_string_lossy())
        .env("NO_COLOR", "1")
        .env("COLUMNS", "110");
    cases.run();
}

/// What the text of the quick start makes by hand.
fn prepare(home: &Path) {
    let root = rootfs(home);
    std::os::unix::fs::symlink("busybox", root.join("bin/uname")).unwrap();
    let bundle = bundle(home, "bundle", &spec(&["/bin/sh"]));
    for root in [root, bundle.join("rootfs")] {
        std::fs::write(root.join("etc/passwd"), "worker:x:1000:1000::/tmp:/bin/sh\n").unwrap();
        std::fs::remove_file(root.join("etc/group")).unwrap();
    }
}
