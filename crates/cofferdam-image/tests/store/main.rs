//! The store of images: against layouts made by hand, skopeo and umoci, processes that are killed, and full disks.
#![expect(clippy::unwrap_used, reason = "this is a test, though not one of the standard harness")]

mod acquire;
mod crash;
mod disk;
mod hostile;
mod layouts;
mod manage;
mod process;
mod tools;

use std::process::ExitCode;

use cofferdam_testkit::needs::Need;
use cofferdam_testkit::suite::trial;
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    if event_loop().block_on(process::work()) {
        return ExitCode::SUCCESS;
    }
    macro_rules! trials {
        ($($needs:expr => $module:ident: $($test:ident)+;)+) => {
            vec![$($(asynchronous(stringify!($test), &$needs, || $module::$test()),)+)+]
        };
    }
    let trials = trials! {
        [Need::Root] => acquire: an_image_comes_is_found_and_is_unpacked what_ended_in_the_middle_goes_on_there
            whoever_stops_waiting_leaves_nothing_behind;
        [Need::Root] => hostile: the_platform_is_chosen indexes_that_lead_nowhere_are_refused
            manifests_that_are_none_are_refused dockers_spelling_is_read bombs_do_not_go_off
            content_with_another_digest_is_refused a_layer_that_comes_twice_is_once_on_top
            longer_digests_are_checked_too;
        [Need::Root] => manage: names_come_and_go what_is_used_stays nothing_is_removed_while_the_store_is_held
            what_is_broken_is_told a_new_image_has_a_layer_more
            an_image_that_names_another_as_its_layer_does_not_harm_it a_directory_has_a_name_once
            only_the_wait_for_others_is_limited;
        [Need::Root, Need::Skopeo, Need::Umoci] => tools: what_umoci_makes_is_unpacked_as_umoci_does
            the_store_is_a_layout_for_other_tools skopeos_layers_of_zstd_are_unpacked archives_go_both_ways
            skopeos_archives_are_read_compressed_too;
        [Need::Root] => crash: whoever_is_killed_leaves_a_store_that_is_whole eight_that_want_the_same_do_the_work_once;
        [Need::Root, Need::Unshare] => disk: a_full_disk_spoils_nothing;
    };
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A trial with an event loop of its own, as the command line has it.
fn asynchronous<F: Future<Output = ()>>(
    name: &str,
    needs: &[Need],
    test: impl FnOnce() -> F + Send + 'static,
) -> Trial {
    trial(name, needs, move || {
        event_loop().block_on(test());
    })
}

fn event_loop() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
