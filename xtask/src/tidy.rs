//! The conventions of this repository, as a check instead of a remark in a review.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use xshell::{Shell, cmd};

/// Lines of a file without its tests at which it should have been divided.
const FILE_LINES: usize = 500;
/// Lines at which it must have been.
const FILE_LINES_ALARM: usize = 800;

/// A file of the repository.
struct File {
    path: PathBuf,
    text: String,
}

pub(crate) fn run(shell: &Shell) -> Result<()> {
    let listed = cmd!(shell, "git ls-files --cached --others --exclude-standard").quiet().read()?;
    let files: Vec<File> = listed
        .lines()
        .map(PathBuf::from)
        .filter_map(|path| {
            Some(File { text: std::fs::read_to_string(shell.current_dir().join(&path)).ok()?, path })
        })
        .collect();
    let mut faults = Vec::new();
    for file in &files {
        check_text(file, &mut faults);
        if file.path.extension().is_some_and(|extension| extension == "rs") {
            check_rust(file, &mut faults);
        }
    }
    check_book(&files, &mut faults);
    check_errors(&files, &mut faults);
    if faults.is_empty() {
        return Ok(());
    }
    for fault in &faults {
        eprintln!("{fault}");
    }
    bail!("{} conventions are broken", faults.len());
}

fn check_text(file: &File, faults: &mut Vec<String>) {
    let verbatim = ["snap", "txt", "lock", "stdout", "stderr"];
    let extension = file.path.extension().unwrap_or_default().to_string_lossy();
    if verbatim.contains(&extension.as_ref()) {
        return;
    }
    for (number, line) in file.text.lines().enumerate() {
        if line.ends_with([' ', '\t']) {
            faults.push(format!("{}:{}: white space at the end", file.path.display(), number + 1));
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        faults.push(format!("{}: no newline at the end", file.path.display()));
    }
}

fn check_rust(file: &File, faults: &mut Vec<String>) {
    let path = file.path.display();
    if !file.text.starts_with("//!") {
        faults.push(format!("{path}: does not say its job in a `//!` at its top"));
    }
    let product = file.text.split("#[cfg(test)]").next().unwrap_or_default().lines().count();
    let is_test = |path: &Path| path.to_string_lossy().contains("tests");
    if !is_test(&file.path) && product > FILE_LINES {
        faults.push(format!("{path}: {product} lines without its tests; the limit is {FILE_LINES}"));
    }
    if file.text.lines().count() > FILE_LINES_ALARM {
        faults.push(format!("{path}: more than {FILE_LINES_ALARM} lines"));
    }
    // This file names what it looks for, so it cannot be looked at in this way.
    let own = file.path.ends_with("tidy.rs");
    for (number, line) in file.text.lines().enumerate().filter(|_| !own) {
        let code = line.split("//").next().unwrap_or_default();
        let wrong = [
            (code.contains("#[ignore"), "a test is never ignored: declare its need"), // the words to find: no test is ignored here
            (code.contains("todo!(") || code.contains("unimplemented!("), "no stub"), // the words to find: no stub is here
            (
                code.contains("unsafe ")
                    && !["cofferdam", "cofferdam-network"]
                        .iter()
                        .any(|name| file.path.starts_with(format!("crates/{name}/src/sys"))),
                "unsafe only in sys/",
            ),
        ];
        for (_, why) in wrong.iter().filter(|(is_so, _)| *is_so) {
            faults.push(format!("{path}:{}: {why}", number + 1));
        }
    }
}

/// Each chapter is in the summary, and each entry of the summary is a chapter.
fn check_book(files: &[File], faults: &mut Vec<String>) {
    let book = Path::new("docs/src");
    let Some(summary) = files.iter().find(|file| file.path == book.join("SUMMARY.md")) else {
        faults.push("docs/src/SUMMARY.md is missing".into());
        return;
    };
    let linked: Vec<PathBuf> = summary
        .text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(|target| book.join(target.trim_start_matches("./")))
        .collect();
    let is_chapter = |file: &&File| {
        file.path.starts_with(book)
            && file.path.extension().is_some_and(|extension| extension == "md")
            && !file.path.ends_with("SUMMARY.md")
    };
    let chapters: Vec<&PathBuf> = files.iter().filter(is_chapter).map(|file| &file.path).collect();
    for chapter in &chapters {
        if !linked.contains(chapter) {
            faults.push(format!("{}: the summary does not name it", chapter.display()));
        }
    }
    for link in linked.iter().filter(|link| !chapters.contains(link)) {
        faults.push(format!("docs/src/SUMMARY.md names {}, which is not there", link.display()));
    }
}

/// Each error code is used by more than its own definition.
fn check_errors(files: &[File], faults: &mut Vec<String>) {
    let definition = Path::new("crates/cofferdam/src/error.rs");
    let Some(errors) = files.iter().find(|file| file.path == definition) else { return };
    let names = errors.text.lines().filter_map(|line| {
        let (name, rest) = line.trim().split_once(" = \"E")?;
        rest.contains(", ").then_some(name)
    });
    for name in names {
        let used = format!("Code::{name}");
        if !files.iter().any(|file| file.path != definition && file.text.contains(&used)) {
            faults.push(format!("{}: {used} is never given", definition.display()));
        }
    }
}
