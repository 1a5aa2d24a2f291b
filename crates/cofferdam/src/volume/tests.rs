//! Volumes in directories of the test's own.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::AtomicBool;

use super::*;
use crate::id::ContainerId;
use crate::request::{LaunchRequest, MountRequest, Source, validate};
use crate::rootfs::Rootfs;
use crate::state::{ContainerDir, StateDir};

/// A store, a state directory and a root filesystem.
struct Place {
    keep: tempfile::TempDir,
    store: VolumeStore,
    state: StateDir,
}

impl Place {
    fn new() -> Self {
        let keep = tempfile::tempdir().unwrap();
        let store = VolumeStore::of(&keep.path().join("data"));
        let state = StateDir::open(&keep.path().join("s")).unwrap();
        std::fs::create_dir_all(keep.path().join("root")).unwrap();
        Self { keep, store, state }
    }

    fn root(&self, path: &str) -> PathBuf {
        self.keep.path().join("root").join(path)
    }

    fn container(&self) -> ContainerDir {
        self.state.create_container(&ContainerId::generate()).unwrap().0
    }

    fn fill(&self, mounts: &[MountRequest], container: &ContainerDir) -> Result<(), VolumeError> {
        let rootfs = Rootfs::open(&self.root("")).unwrap();
        self.store.fill(mounts, container, &rootfs, &AtomicBool::new(false))
    }
}

fn mounts(volumes: &[&str]) -> Vec<MountRequest> {
    let mut request = LaunchRequest::new(Source::Bundle { path: "/b".into() });
    request.mounts = volumes.iter().map(|text| (*text).to_owned()).collect();
    validate(request).unwrap().mounts
}

fn name(text: &str) -> VolumeName {
    text.parse().unwrap()
}

#[test]
fn a_volume_is_made_once_and_found() {
    let place = Place::new();
    assert_eq!(place.store.list().unwrap().0, [], "there is no directory yet");
    let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
    let made = place.store.create(&name("db"), &labels).unwrap();
    std::fs::write(made.data().join("x"), "kept").unwrap();
    let again = place.store.create(&name("db"), &BTreeMap::new()).unwrap();
    assert_eq!((&again, again.data().join("x").exists()), (&made, true));
    let unnamed = place.store.create_anonymous(&BTreeMap::new()).unwrap();
    assert!(unnamed.record.anonymous && unnamed.name().as_str().len() == 64);
    assert_eq!(place.store.list().unwrap().0.len(), 2);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(place.store.path()), mode(&made.data())), (0o700, 0o755));
    place.store.remove(&name("db")).unwrap();
    assert!(matches!(place.store.remove(&name("db")), Err(VolumeError::NoSuchVolume(_))));
    assert!(matches!(place.store.find(&name("db")), Err(VolumeError::NoSuchVolume(_))));
}

#[test]
fn a_directory_that_others_write_to_is_refused() {
    let place = Place::new();
    std::fs::create_dir_all(place.store.path()).unwrap();
    std::fs::set_permissions(place.store.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let error = place.store.create(&name("db"), &BTreeMap::new()).unwrap_err();
    assert_eq!(error.code(), Code::StateDirectory, "{error}");
    let relative = VolumeStore::of(Path::new("relative"));
    assert_eq!(relative.create(&name("db"), &BTreeMap::new()).unwrap_err().code(), Code::StateDirectory);
}

#[test]
fn a_damaged_volume_is_told_from_a_newer_one_and_can_be_removed() {
    let place = Place::new();
    let volume = place.store.create(&name("db"), &BTreeMap::new()).unwrap();
    let file = volume.path.join("volume.json");
    std::fs::write(&file, "{").unwrap();
    assert_eq!(place.store.find(&name("db")).unwrap_err().code(), Code::RecordDamaged);
    std::fs::write(&file, r#"{ "version": 99, "surprise": true }"#).unwrap();
    assert_eq!(place.store.find(&name("db")).unwrap_err().code(), Code::RecordTooNew);
    let (found, broken) = place.store.list().unwrap();
    assert_eq!((found.len(), broken.len()), (0, 1));
    place.store.remove(&name("db")).unwrap();
}

#[test]
fn a_volume_is_in_use_as_long_as_a_folder_is_there() {
    let place = Place::new();
    let mounts = mounts(&["db:/a", "/b"]);
    let (one, two) = (place.container(), place.container());
    place.store.take(&mounts, &one).unwrap();
    place.store.take(&mounts[..1], &two).unwrap();
    let users = place.store.users(&name("db")).unwrap();
    assert_eq!(users.len(), 2, "{users:?}");
    let error = place.store.remove(&name("db")).unwrap_err();
    assert_eq!(error.code(), Code::VolumeInUse);
    assert!(error.to_string().contains(one.id.short()), "{error}");
    place.state.remove_container(&one).unwrap();
    assert!(place.store.remove(&name("db")).is_err(), "the other one has it");
    place.state.remove_container(&two).unwrap();
    place.store.remove(&name("db")).unwrap();
}

#[test]
fn volumes_without_a_name_go_with_a_container_that_was_cut_short() {
    let place = Place::new();
    let mounts = mounts(&["db:/a", "/b"]);
    let container = place.container();
    place.store.take(&mounts, &container).unwrap();
    assert_eq!(place.store.orphans(place.state.path()), [], "its container is there");
    place.state.remove_container(&container).unwrap();
    let orphans = place.store.orphans(place.state.path());
    assert_eq!(orphans.iter().map(|volume| volume.record.anonymous).collect::<Vec<_>>(), [true]);
    assert_eq!(place.store.orphans(Path::new("/elsewhere")), [], "another state directory's are not ours");
    let other = place.container();
    place.store.take(&mounts, &other).unwrap();
    let records: Vec<_> = mounts.iter().map(|mount| mount.record(place.store.path())).collect();
    place.store.settle(&records).unwrap();
    place.state.remove_container(&other).unwrap();
    assert_eq!(place.store.orphans(place.state.path()), [], "a container without --rm leaves them");
}

#[test]
fn what_was_left_half_made_is_swept() {
    let place = Place::new();
    drop(place.store.create(&name("db"), &BTreeMap::new()).unwrap());
    // No process has that number: the kernel's are at most 4194304.
    let (dead, living) = (".gone.xx.4194305.1".to_owned(), format!(".gone.xx.{}.1", std::process::id()));
    for left in [".new.xx", &dead, &living] {
        std::fs::create_dir_all(place.store.path().join(left).join("_data")).unwrap();
    }
    place.store.sweep();
    let entries = std::fs::read_dir(place.store.path()).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, [living.as_str(), ".lock", "db"], "what a living process removes is let be");
}

#[test]
fn a_new_volume_gets_what_the_image_has_there() {
    let place = Place::new();
    std::fs::create_dir_all(place.root("srv/data/deep/er")).unwrap();
    std::fs::write(place.root("srv/data/file"), "content").unwrap();
    std::fs::hard_link(place.root("srv/data/file"), place.root("srv/data/deep/second")).unwrap();
    std::fs::write(place.root("srv/data/deep/er/tool"), "#!").unwrap();
    std::fs::set_permissions(place.root("srv/data/deep/er/tool"), PermissionsExt::from_mode(0o4755)).unwrap();
    std::fs::set_permissions(place.root("srv/data"), PermissionsExt::from_mode(0o2750)).unwrap();
    symlink("/etc/shadow", place.root("srv/data/link")).unwrap();
    symlink("/srv", place.root("alias")).unwrap();
    let hole = std::fs::File::create(place.root("srv/data/hole")).unwrap();
    hole.set_len(1 << 30).unwrap();
    let mounts = mounts(&["db:/alias/data"]);
    let container = place.container();
    place.store.take(&mounts, &container).unwrap();
    place.fill(&mounts, &container).unwrap();
    let data = place.store.find(&name("db")).unwrap().data();
    let stat = |path: &str| std::fs::symlink_metadata(data.join(path)).unwrap();
    assert_eq!(std::fs::read_to_string(data.join("file")).unwrap(), "content");
    assert_eq!(stat("file").ino(), stat("deep/second").ino(), "one file with two names stays one");
    assert_eq!(stat("deep/er/tool").mode() & 0o7777, 0o4755);
    assert_eq!(stat("").mode() & 0o7777, 0o2750);
    assert_eq!(std::fs::read_link(data.join("link")).unwrap(), Path::new("/etc/shadow"));
    assert_eq!(stat("hole").len(), 1 << 30);
    assert!(stat("hole").blocks() < 1024, "a hole stays one: {}", stat("hole").blocks());
    let changed = |path: &Path| std::fs::symlink_metadata(path).unwrap().modified().unwrap();
    assert_eq!(changed(&data.join("deep")), changed(&place.root("srv/data/deep")));
    // It is not filled again once there is something in it.
    std::fs::remove_file(data.join("file")).unwrap();
    place.fill(&mounts, &container).unwrap();
    assert!(!data.join("file").exists());
}

#[test]
fn nothing_is_copied_where_it_is_not_wanted_or_not_there() {
    let place = Place::new();
    std::fs::create_dir_all(place.root("a/b")).unwrap();
    std::fs::write(place.root("a/b/file"), "x").unwrap();
    symlink("/etc", place.root("out")).unwrap();
    let empty = |volumes: &[&str]| {
        let mounts = mounts(volumes);
        let container = place.container();
        place.store.take(&mounts, &container).unwrap();
        place.fill(&mounts, &container).unwrap();
        let data = place.store.find(&name("db")).unwrap().data();
        let is_empty = std::fs::read_dir(data).unwrap().next().is_none();
        place.state.remove_container(&container).unwrap();
        place.store.remove(&name("db")).unwrap();
        is_empty
    };
    assert!(empty(&["db:/a/b:nocopy"]), "nobody wants it");
    assert!(empty(&["db:/missing"]) && empty(&["db:/a/b/file"]) && empty(&["db:/out"]));
    assert!(!empty(&["db:/a/b"]) && !empty(&["other:/a", "db:/a/b"]) && !empty(&["/tmp:/a", "db:/a/b"]));
}

#[test]
fn a_filling_that_was_cut_short_is_done_again() {
    let place = Place::new();
    std::fs::create_dir_all(place.root("a")).unwrap();
    std::fs::write(place.root("a/file"), "whole").unwrap();
    let mounts = mounts(&["db:/a"]);
    let container = place.container();
    place.store.take(&mounts, &container).unwrap();
    let volume = place.store.find(&name("db")).unwrap();
    std::fs::write(volume.path.join("filling"), "").unwrap();
    std::fs::create_dir(volume.data().join("half")).unwrap();
    place.fill(&mounts, &container).unwrap();
    assert_eq!(std::fs::read_to_string(volume.data().join("file")).unwrap(), "whole");
    assert!(!volume.data().join("half").exists() && !volume.path.join("filling").exists());
    // Stopped in the middle, it leaves nothing.
    std::fs::remove_file(volume.data().join("file")).unwrap();
    let rootfs = Rootfs::open(&place.root("")).unwrap();
    let error = place.store.fill(&mounts, &container, &rootfs, &AtomicBool::new(true)).unwrap_err();
    assert_eq!(error.code(), Code::StateWrite);
    assert!(std::fs::read_dir(volume.data()).unwrap().next().is_none());
    assert!(!volume.path.join("filling").exists());
}

#[test]
fn what_can_block_or_is_a_device_is_not_opened() {
    let place = Place::new();
    std::fs::create_dir_all(place.root("a")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        place.root("a/fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o620),
        0,
    )
    .unwrap();
    std::fs::set_permissions(place.root("a/fifo"), PermissionsExt::from_mode(0o620)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.root("a/socket")).unwrap();
    let mounts = mounts(&["db:/a"]);
    let container = place.container();
    place.store.take(&mounts, &container).unwrap();
    place.fill(&mounts, &container).unwrap();
    let data = place.store.find(&name("db")).unwrap().data();
    assert_eq!(std::fs::metadata(data.join("fifo")).unwrap().mode() & 0o777, 0o620);
    assert!(!data.join("socket").exists());
}

#[test]
fn directories_beyond_any_sense_are_refused_and_leave_nothing() {
    let place = Place::new();
    std::fs::create_dir_all(place.root(&format!("a{}", "/d".repeat(300)))).unwrap();
    let mounts = mounts(&["db:/a"]);
    let container = place.container();
    place.store.take(&mounts, &container).unwrap();
    let error = place.fill(&mounts, &container).unwrap_err();
    assert!(matches!(error, VolumeError::Fill { .. }), "{error}");
    let data = place.store.find(&name("db")).unwrap().data();
    assert!(std::fs::read_dir(data).unwrap().next().is_none());
}
