//! Hooks that run on the host: they must not have the container's environment, nor give what is somebody else's.
//!
//! The specification says that a hook's environment is the one that is written down for it. runc 1.1 gives a
//! createContainer hook without one the container's own (measured): an image's `LD_PRELOAD` is then loaded by a program
//! that runs as root outside of it (CVE-2025-23266, of NVIDIA's hook).

use serde_json::Value;

use super::SpecEditor;
use crate::gpu::toolkit_program;

/// The stages whose hooks are programs of the host; those of `startContainer` are the container's.
const HOST_STAGES: [&str; 5] = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
const ENVIRONMENT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const REASON: &str = "a hook without an environment would get the container's from runc: LD_PRELOAD of an image (CVE-2025-23266)";

/// Gives each hook of the host that has no environment one of its own.
pub(super) fn guard(editor: &mut SpecEditor) {
    for stage in HOST_STAGES {
        let hooks = format!("/hooks/{stage}");
        let is_bare = |hook: &Value| hook["env"].as_array().is_none_or(Vec::is_empty);
        let bare: Vec<usize> = editor
            .entries(&hooks)
            .enumerate()
            .filter(|(_, hook)| is_bare(hook))
            .map(|(index, _)| index)
            .collect();
        for index in bare {
            editor.set(&format!("{hooks}/{index}/env"), vec![ENVIRONMENT], REASON);
        }
    }
}

/// Takes the old kind's hook of the NVIDIA toolkit away from a container whose GPUs are given by CDI: it would give those of
/// the environment besides, whoever has them.
pub(crate) fn drop_old_kind(editor: &mut SpecEditor) {
    const OLD_KIND: [&str; 2] = ["nvidia-container-runtime-hook", "nvidia-container-toolkit"];
    for stage in HOST_STAGES {
        editor.drop_entries(&format!("/hooks/{stage}"), |hook| {
            let program = toolkit_program(hook).filter(|program| OLD_KIND.contains(program))?;
            Some(format!(
                "{program}: the GPUs are given by CDI, and it would give what NVIDIA_VISIBLE_DEVICES says"
            ))
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_has_none_is_given_one() {
        let mut editor = SpecEditor::new(json!({ "hooks": {
            "createContainer": [{ "path": "/a" }, { "path": "/b", "env": ["X=1"] }, { "path": "/c", "env": [] }],
            "startContainer": [{ "path": "/inside" }],
        } }));
        guard(&mut editor);
        let (value, edits, _) = editor.finish();
        let own = json!([ENVIRONMENT]);
        let hooks = &value["hooks"]["createContainer"];
        assert_eq!([&hooks[0]["env"], &hooks[1]["env"], &hooks[2]["env"]], [&own, &json!(["X=1"]), &own]);
        assert_eq!(value["hooks"]["startContainer"], json!([{ "path": "/inside" }]));
        assert_eq!(edits.len(), 2);
    }

    #[test]
    fn only_the_old_kind_is_taken_away() {
        let hook = |path: &str| json!({ "path": path });
        let (old, new, other) = (
            hook("/usr/bin/nvidia-container-runtime-hook"),
            hook("/usr/bin/nvidia-cdi-hook"),
            hook("/bin/x"),
        );
        let mut editor = SpecEditor::new(json!({ "hooks": { "prestart": [old, new, other] } }));
        drop_old_kind(&mut editor);
        assert_eq!(editor.finish().0["hooks"]["prestart"], json!([new, other]));
    }

    #[test]
    fn a_specification_without_hooks_stays_as_it_is() {
        let mut editor = SpecEditor::new(json!({ "process": {} }));
        guard(&mut editor);
        assert_eq!(editor.finish().0, json!({ "process": {} }));
    }
}
