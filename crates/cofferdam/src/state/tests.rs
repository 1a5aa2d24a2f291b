//! The state directory under good and bad conditions.

use std::os::unix::fs::PermissionsExt;

use std::io::Write;

use super::*;

fn state() -> (tempfile::TempDir, StateDir) {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(&directory.path().join("s")).unwrap();
    (directory, state)
}

#[test]
fn it_is_ours_alone() {
    let (keep, state) = state();
    let mode = std::fs::metadata(state.path()).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700);
    std::fs::set_permissions(state.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = StateDir::open(state.path()).unwrap_err();
    assert!(error.to_string().contains("others may enter it"), "{error}");
    std::fs::write(keep.path().join("file"), "").unwrap();
    assert!(StateDir::open(&keep.path().join("file")).is_err());
    assert!(StateDir::open(Path::new("relative")).is_err());
}

#[test]
fn a_path_that_is_too_long_for_sockets_is_refused_before_anything_is_made() {
    let path = PathBuf::from(format!("/tmp/{}", "x".repeat(60)));
    let error = StateDir::open(&path).unwrap_err();
    assert_eq!(error.code(), Code::StateDirectory);
    assert!(!path.exists());
}

#[test]
fn a_name_has_one_container() {
    let (_keep, state) = state();
    let name: ContainerName = "web".parse().unwrap();
    let (one, two) = (ContainerId::generate(), ContainerId::generate());
    state.create_container(&one).unwrap();
    state.create_container(&two).unwrap();
    state.claim_name(&name, &one).unwrap();
    assert!(matches!(state.claim_name(&name, &two), Err(StateError::NameTaken { .. })));
    state.release_name(&name, &two).unwrap();
    assert_eq!(state.find("web").unwrap().id, one, "another container cannot release it");
    state.release_name(&name, &one).unwrap();
    state.claim_name(&name, &two).unwrap();
    state.remove_container(&state.container(&two)).unwrap();
    state.claim_name(&name, &one).unwrap();
}

#[test]
fn one_of_many_gets_the_name() {
    let (_keep, state) = state();
    let name: ContainerName = "web".parse().unwrap();
    let won: usize = std::thread::scope(|scope| {
        let claims: Vec<_> = (0..64)
            .map(|_| {
                scope.spawn(|| {
                    let id = ContainerId::generate();
                    state.create_container(&id).unwrap();
                    usize::from(state.claim_name(&name, &id).is_ok())
                })
            })
            .collect();
        claims.into_iter().map(|claim| claim.join().unwrap()).sum()
    });
    assert_eq!(won, 1);
}

#[test]
fn containers_are_found_by_id_name_and_prefix() {
    let (_keep, state) = state();
    let one: ContainerId = "aa000000000000000000000000000000".parse().unwrap();
    let two: ContainerId = "ab000000000000000000000000000000".parse().unwrap();
    state.create_container(&one).unwrap();
    state.create_container(&two).unwrap();
    assert_eq!(state.find("aa").unwrap().id, one);
    assert!(matches!(state.find("a"), Err(StateError::Ambiguous { count: 2, .. })));
    for text in ["", "b", "../aa", "-x", "aa/..", &"a".repeat(1000)] {
        assert!(matches!(state.find(text), Err(StateError::NoSuchContainer(_))), "{text}");
    }
    state.remove_container(&state.container(&one)).unwrap();
    assert!(state.find(one.as_str()).is_err());
    let left: Vec<_> = state.containers().unwrap().into_iter().map(|container| container.id).collect();
    assert_eq!(left, [two]);
    let hidden = |entry: &std::fs::DirEntry| is_unborn(&entry.file_name().to_string_lossy());
    assert!(
        !std::fs::read_dir(state.path().join("containers")).unwrap().flatten().any(|entry| hidden(&entry))
    );
}

#[test]
fn a_newer_record_is_told_from_a_damaged_one() {
    let (_keep, state) = state();
    let (container, _lock) = state.create_container(&ContainerId::generate()).unwrap();
    assert!(container.read_record().unwrap().is_none());
    let file = container.path().join("record.json");
    std::fs::write(&file, r#"{"version": 99, "whatever": true}"#).unwrap();
    assert!(matches!(container.read_record(), Err(StateError::TooNew { found: 99, .. })));
    for text in ["", "{", "{}", r#"{"version": 1}"#, r#"{"version": "1"}"#, "\u{0}"] {
        std::fs::write(&file, text).unwrap();
        assert!(matches!(container.read_record(), Err(StateError::Damaged { .. })), "{text:?}");
    }
}

#[test]
fn the_lock_is_exclusive_and_ends_with_its_holder() {
    let (_keep, state) = state();
    let (container, lock) = state.create_container(&ContainerId::generate()).unwrap();
    assert!(!lock_is_free(&container).unwrap());
    assert!(ContainerLock::attempt(&container).unwrap().is_none());
    drop(lock);
    assert!(lock_is_free(&container).unwrap());
    assert!(ContainerLock::attempt(&container).unwrap().is_some());
}

#[test]
fn a_failed_write_leaves_the_old_file_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("f");
    write_atomically(&file, |out| out.write_all(b"old")).unwrap();
    let result = write_atomically(&file, |out| {
        out.write_all(b"ne")?;
        Err(io::Error::from_raw_os_error(libc::ENOSPC))
    });
    assert!(result.is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_recycled_pid_is_not_the_same_process() {
    let own = i32::try_from(std::process::id()).unwrap();
    let process = ProcessId::of(own, "boot").unwrap();
    assert!(process.is_alive("boot") && !process.is_alive("another boot"));
    assert!(!ProcessId { start_time: process.start_time + 1, ..process }.is_alive("boot"));
}
