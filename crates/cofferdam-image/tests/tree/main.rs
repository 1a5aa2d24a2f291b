//! Trees into archives and back: on overlays that the kernel has mounted, compared with what GNU tar and umoci make of them,
//! and trees of containers that mean harm.
#![expect(clippy::unwrap_used, reason = "this is a test, though not one of the standard harness")]

mod changes;
mod copy;
mod hostile;
mod layer;
mod overlay;
mod race;
mod snapshot;

use std::process::ExitCode;

use cofferdam_testkit::needs::Need;
use cofferdam_testkit::suite::trial;
use libtest_mimic::Arguments;

type Test = (&'static str, &'static [Need], fn());

fn main() -> ExitCode {
    let tests: &[Test] = &[
        ("layer::round_trip", &[Need::Root], layer::a_layer_is_what_the_container_has_changed),
        ("layer::gnu_tar", &[Need::Root], layer::gnu_tar_unpacks_the_tree),
        ("layer::umoci", &[Need::Root, Need::Umoci], layer::umoci_unpacks_the_image),
        ("layer::refused", &[Need::Root], layer::what_no_layer_has_is_refused),
        ("layer::numbers", &[Need::Root], layer::large_numbers_and_long_names_are_kept),
        ("changes::naive", &[Need::Root], changes::changes_are_those_that_a_comparison_finds),
        ("changes::docker", &[Need::Root], changes::changes_are_said_as_docker_says_them),
        ("copy::out", &[Need::Root], copy::files_come_out_by_the_rules),
        ("copy::into", &[Need::Root], copy::files_go_in_by_the_rules),
        ("copy::links", &[Need::Root], copy::links_are_copied_or_followed),
        ("copy::owners", &[Need::Root], copy::owners_and_modes_are_those_of_the_side),
        ("copy::archives", &[Need::Root], copy::archives_go_in_and_come_out),
        ("hostile::links", &[Need::Root], hostile::links_lead_nowhere_else),
        ("hostile::files", &[Need::Root], hostile::nothing_is_waited_for),
        ("hostile::names", &[Need::Root], hostile::any_name_is_copied),
        ("hostile::sizes", &[Need::Root], hostile::holes_and_depths_are_bounded),
        ("hostile::host", &[Need::Root], hostile::nothing_has_power_on_the_host),
        ("race::swaps", &[Need::Root], race::a_tree_that_changes_leads_nowhere_else),
    ];
    let trials = tests.iter().map(|(name, needs, test)| trial(*name, needs, *test)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
