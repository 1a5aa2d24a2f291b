//! Containers of images: how they run, where images come from and go to, and what is left when processes are killed.

pub(crate) mod crashes;
pub(crate) mod defaults;
pub(crate) mod disk;
pub(crate) mod files;
pub(crate) mod run;
pub(crate) mod store;

use cofferdam_testkit::image::{Layout, layers};
use cofferdam_testkit::lab::Lab;
use cofferdam_testkit::runtimes::{Choice, RUNSC_DEBIAN};
use serde_json::{Value, json};

/// One of each kind: what an image is does not depend on a runtime's release.
pub(crate) fn is_one_of_each(choice: &Choice) -> bool {
    matches!(choice, Choice::Runc | Choice::Runsc(RUNSC_DEBIAN))
}

/// For what no runtime takes part in.
fn is_runc(choice: &Choice) -> bool {
    *choice == Choice::Runc
}

/// An image without an entrypoint, which runs as root; a reference to it.
fn tool(lab: &Lab) -> String {
    image(lab, "tool", &json!({ "Env": ["PATH=/bin"], "Cmd": ["sh"] }))
}

/// An image of the two layers with this configuration, in a layout of its own; a reference to it.
fn image(lab: &Lab, tag: &str, config: &Value) -> String {
    format!("oci:{}", Layout::new(&lab.path().join(format!("oci-{tag}"))).add(tag, &layers(), config))
}

/// Brings an image into the store, with a name.
fn stored(lab: &Lab, image: &str, name: &str) {
    let id = lab.cofferdam(&["pull", "--quiet", image]).expect_code(0).text();
    drop(lab.cofferdam(&["tag", &id, name]).expect_code(0));
}
