//! Tasks of this repository. `cargo xtask quickstart` and `cargo xtask test` set everything up by themselves.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that tells its user what it does")]

mod bench;
mod gpu;
mod packages;
mod prepush;
mod quickstart;
mod runtimes;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use xshell::Shell;

/// Tasks of cofferdam's repository.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install runc and gVisor, build cofferdam, and run a container under each
    Quickstart,
    /// Install what the tests need and run them all; arguments choose among them by name
    Test(test::TestArgs),
    /// Run every check that a change must pass but the tests
    Prepush,
    /// Check the conventions of this repository
    Tidy,
    /// Measure cofferdam against the bare runtimes and podman, and print a table of ratios
    Bench(bench::BenchArgs),
    /// Gather what a machine with an NVIDIA GPU needs to test it, and run it if this is one
    GpuTest,
    /// Build the newest runsc that is known to work, through the Go module proxy
    Runsc,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let cli = Cli::parse();
    let shell = Shell::new().context("there is no current directory")?;
    shell.change_dir(cofferdam_testkit::runtimes::workspace().canonicalize()?);
    match cli.task {
        Task::Quickstart => quickstart::run(&shell),
        Task::Test(args) => test::run(&shell, &args),
        Task::GpuTest => gpu::run(&shell),
        Task::Prepush => prepush::run(&shell),
        Task::Tidy => tidy::run(&shell),
        Task::Bench(args) => bench::run(&shell, &args),
        Task::Runsc => runtimes::build_head(&shell).map(|path| println!("{}", path.display())),
    }
}

/// Says which step begins.
fn step(text: &str) {
    println!("==> {text}");
}
