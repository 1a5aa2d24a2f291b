//! The configuration of an image that is made of a container: its parent's, a layer more, and changes as
//! `docker commit --change` reads them. Pure: the store puts it away.

mod change;
mod words;

use cofferdam::error::{Code, Diagnose};
use oci_spec::image::{History, HistoryBuilder, ImageConfiguration};
use serde_json::Value;

/// What is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit<'a> {
    /// The digest of the new layer's tar stream, which is not compressed: `sha256:` and 64 digits. The digest and size of what
    /// is stored of it are the manifest's affair.
    pub diff_id: &'a str,
    /// When, by RFC 3339.
    pub created: &'a str,
    /// The command whose doing the layer is, for the history.
    pub created_by: &'a str,
    /// Who has made it; the parent's author where nobody is named.
    pub author: Option<&'a str>,
    /// What was done, in words.
    pub message: Option<&'a str>,
    /// Instructions of a Dockerfile, in the order in which they are carried out: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL,
    /// USER, VOLUME, WORKDIR.
    pub changes: &'a [String],
}

/// A change that is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the change `{change}` is refused: {why}")]
pub struct CommitError {
    /// As it was given, made printable.
    pub change: String,
    /// What is wrong with it.
    pub why: String,
}

impl Diagnose for CommitError {
    fn code(&self) -> Code {
        Code::InvalidValue
    }

    fn next_step(&self) -> Option<String> {
        Some(
            "write it as in a Dockerfile, for example --change 'CMD [\"nginx\"]' --change 'ENV KEY=value'"
                .into(),
        )
    }
}

/// Makes the configuration of the new image.
///
/// The history gets entries for those layers of the parent that it does not speak of, as readers hold the one against the other.
///
/// # Errors
/// [`CommitError`], for the first change that is none.
pub fn commit(parent: &ImageConfiguration, commit: &Commit<'_>) -> Result<ImageConfiguration, CommitError> {
    let mut image = parent.clone();
    let mut config = parent.config().clone().unwrap_or_default();
    change::apply(&mut config, commit.changes)?;
    image.set_config(Some(config));
    image.set_created(Some(commit.created.to_owned()));
    if let Some(author) = commit.author {
        image.set_author(Some(author.to_owned()));
    }
    let mut history = parent.history().clone().unwrap_or_default();
    let told = history.iter().filter(|entry| entry.empty_layer() != Some(true)).count();
    let layers = parent.rootfs().diff_ids().len();
    history.extend((told..layers).map(|_| History::default()));
    history.push(entry(commit));
    image.set_history(Some(history));
    let mut rootfs = parent.rootfs().clone();
    rootfs.diff_ids_mut().push(commit.diff_id.to_owned());
    image.set_rootfs(rootfs);
    Ok(image)
}

/// Puts a configuration that [`commit`] has made of `parent` into `whole`, the parent's JSON. What only other tools know stays
/// in it; what we know of `config` and the new one has no more, such as the command that an entrypoint takes away, goes.
///
/// # Errors
/// None that is known: a configuration can be said in JSON.
pub fn merged(
    whole: &Value,
    parent: &ImageConfiguration,
    committed: &ImageConfiguration,
) -> serde_json::Result<Value> {
    let (parent, committed) = (serde_json::to_value(parent.config())?, serde_json::to_value(committed)?);
    let mut whole = whole.clone();
    for (key, value) in committed.as_object().into_iter().flatten() {
        match (key.as_str(), whole[key].as_object_mut(), value.as_object()) {
            ("config", Some(old), Some(new)) => {
                let known = parent.as_object();
                old.retain(|field, _| {
                    new.contains_key(field) || !known.is_some_and(|known| known.contains_key(field))
                });
                old.extend(new.clone());
            }
            _ => whole[key] = value.clone(),
        }
    }
    Ok(whole)
}

fn entry(commit: &Commit<'_>) -> History {
    let mut entry = HistoryBuilder::default().created(commit.created).created_by(commit.created_by);
    if let Some(author) = commit.author {
        entry = entry.author(author);
    }
    if let Some(message) = commit.message {
        entry = entry.comment(message);
    }
    // Every part of it has a default.
    entry.build().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(history: &str) -> ImageConfiguration {
        let text = format!(
            r#"{{"architecture": "arm64", "os": "linux", "author": "them", "variant": "v8",
                "config": {{"Env": ["PATH=/bin", "A=1"], "Cmd": ["sh"], "WorkingDir": "/srv", "User": "me",
                           "ExposedPorts": {{"80/tcp": {{}}}}, "Labels": {{"a": "1"}}}},
                "rootfs": {{"type": "layers", "diff_ids": ["sha256:aa", "sha256:bb"]}}, "history": {history}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn committed(parent: &ImageConfiguration, changes: &[&str]) -> Result<ImageConfiguration, CommitError> {
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        let parts = Commit {
            diff_id: "sha256:cc",
            created: "2026-11-26T00:00:00Z",
            created_by: "sh -c make",
            author: None,
            message: Some("made"),
            changes: &changes,
        };
        commit(parent, &parts)
    }

    #[test]
    fn a_layer_and_its_history_come_on_top() {
        let image =
            committed(&parent(r#"[{"created_by": "a"}, {"created_by": "env", "empty_layer": true}]"#), &[])
                .unwrap();
        assert_eq!(image.rootfs().diff_ids(), &["sha256:aa", "sha256:bb", "sha256:cc"]);
        let history = image.history().clone().unwrap();
        assert_eq!(history.iter().filter(|entry| entry.empty_layer() != Some(true)).count(), 3);
        let last = history.last().unwrap();
        assert_eq!(
            (last.created_by().as_deref(), last.comment().as_deref()),
            (Some("sh -c make"), Some("made"))
        );
        assert_eq!(image.author().as_deref(), Some("them"));
        assert_eq!(image.created().as_deref(), Some("2026-11-26T00:00:00Z"));
        assert_eq!(image.variant().as_deref(), Some("v8"));
        assert_eq!(image.config(), parent("[]").config());
    }

    #[test]
    fn changes_are_those_of_docker() {
        let of = |changes: &[&str]| committed(&parent("[]"), changes).unwrap().config().clone().unwrap();
        let words = |words: &[&str]| Some(words.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(*of(&[r#"CMD ["a", "b c"]"#]).cmd(), words(&["a", "b c"]));
        assert_eq!(*of(&["cmd echo $A 'x'"]).cmd(), words(&["/bin/sh", "-c", "echo $A 'x'"]));
        assert_eq!(*of(&["CMD ['a']"]).cmd(), words(&["/bin/sh", "-c", "['a']"]));
        // An entrypoint takes the parent's command away, but not one that is given with it.
        let config = of(&[r#"ENTRYPOINT ["/init"]"#]);
        assert_eq!((config.entrypoint(), config.cmd()), (&words(&["/init"]), &None));
        let config = of(&[r#"CMD ["x"]"#, "ENTRYPOINT run"]);
        assert_eq!((config.entrypoint(), config.cmd()), (&words(&["/bin/sh", "-c", "run"]), &words(&["x"])));
        assert_eq!(
            *of(&[
                "ENV A=2 B=\"x y\" C=$PATH:/x",
                "ENV D the rest of it",
                "ENV E=${A}${F:-none}${A:+some} G='$A' H=\\$A"
            ])
            .env(),
            words(&[
                "PATH=/bin",
                "A=2",
                "B=x y",
                "C=/bin:/x",
                "D=the rest of it",
                "E=2nonesome",
                "G=$A",
                "H=$A"
            ])
        );
        assert_eq!(
            *of(&["EXPOSE 53/udp 80 9000-9001"]).exposed_ports(),
            words(&["53/udp", "80/tcp", "9000/tcp", "9001/tcp"])
        );
        let labels = of(&[r#"LABEL a=2 "b c"="d e" f"#.trim_end_matches(" f")]).labels().clone().unwrap();
        assert_eq!((labels["a"].as_str(), labels["b c"].as_str()), ("2", "d e"));
        assert_eq!(of(&["USER 1000:1000"]).user().as_deref(), Some("1000:1000"));
        for (changes, directory) in [
            (&["WORKDIR /a/../b/"][..], "/b"),
            (&["WORKDIR sub", "WORKDIR $A"], "/srv/sub/1"),
            (&["WORKDIR .."], "/"),
        ] {
            assert_eq!(of(changes).working_dir().as_deref(), Some(directory));
        }
        assert_eq!(*of(&["VOLUME /b /a", r#"VOLUME ["/c d"]"#]).volumes(), words(&["/a", "/b", "/c d"]));
        assert_eq!(of(&["STOPSIGNAL SIGQUIT"]).stop_signal().as_deref(), Some("SIGQUIT"));
    }

    #[test]
    fn what_others_know_stays_and_what_is_taken_away_goes() {
        let whole = serde_json::json!({
            "architecture": "arm64", "os": "linux", "docker_version": "1",
            "config": {"Cmd": ["sh"], "User": "me", "OnBuild": null, "Healthcheck": {"Test": ["NONE"]}},
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        let parent: ImageConfiguration = serde_json::from_value(whole.clone()).unwrap();
        let made = committed(&parent, &[r#"ENTRYPOINT ["/init"]"#, "WORKDIR /srv"]).unwrap();
        let merged = merged(&whole, &parent, &made).unwrap();
        assert_eq!(
            merged["config"],
            serde_json::json!({
                "Entrypoint": ["/init"], "User": "me", "WorkingDir": "/srv",
                "OnBuild": null, "Healthcheck": {"Test": ["NONE"]},
            })
        );
        assert_eq!(
            (&merged["docker_version"], &merged["created"]),
            (&"1".into(), &"2026-11-26T00:00:00Z".into())
        );
        let mut bare = whole;
        bare["config"] = Value::Null;
        let parent: ImageConfiguration = serde_json::from_value(bare.clone()).unwrap();
        let made = committed(&parent, &["CMD [\"x\"]"]).unwrap();
        assert_eq!(super::merged(&bare, &parent, &made).unwrap()["config"]["Cmd"], serde_json::json!(["x"]));
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for change in [
            "",
            "CMD",
            "RUN make",
            "FROM x",
            "ENV",
            "ENV A",
            "ENV =x",
            "ENV A=1 B",
            "LABEL x",
            "EXPOSE http",
            "EXPOSE 0",
            "EXPOSE 70000",
            "EXPOSE 9-1",
            "EXPOSE 80/icmp",
            "STOPSIGNAL NEVER",
            "USER a b",
            "VOLUME []",
            "VOLUME [\"\"]",
            "ENV A=\"x",
            "ENV A='x",
            "ENV A=${B",
            "HEALTHCHECK NONE",
            "ONBUILD RUN x",
            "USER $NOBODY",
        ] {
            let error = committed(&parent("[]"), &[change]).expect_err(change);
            assert_eq!(error.code(), Code::InvalidValue);
            assert!(error.to_string().len() < 300, "{error}");
        }
    }
}
