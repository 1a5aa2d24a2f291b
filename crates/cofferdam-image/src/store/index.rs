//! index.json: the names of images and the manifests that they lead to, as an image layout has them.
//!
//! A descriptor has one name, in the annotation that skopeo and umoci read; an image with two names has two. What is removed
//! while others may use it stays as a descriptor that is marked, until `gc` sees that nobody does.

use std::collections::HashMap;

use oci_spec::image::{ANNOTATION_REF_NAME, Descriptor, Digest, ImageIndex, MediaType};

use super::files::{read_bounded, write_whole};
use super::{Store, lock};
use crate::error::ImageError;
use crate::manifest::{self, INDEX_LIMIT};

/// The digest of the index, or the manifest, that the image's name led to where it came from.
const ROOT_ANNOTATION: &str = "org.cofferdam.root.digest";
/// Marks a descriptor whose image is removed.
const REMOVED_ANNOTATION: &str = "org.cofferdam.removed";

/// What a descriptor of the index is to the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) root: Option<&'a str>,
    pub(super) is_removed: bool,
}

/// Reads what the annotations of a descriptor say.
pub(super) fn record(descriptor: &Descriptor) -> Record<'_> {
    let annotation = |key: &str| {
        descriptor.annotations().as_ref().and_then(|annotations| annotations.get(key)).map(String::as_str)
    };
    Record {
        name: annotation(ANNOTATION_REF_NAME),
        root: annotation(ROOT_ANNOTATION),
        is_removed: annotation(REMOVED_ANNOTATION).is_some(),
    }
}

/// The descriptor for a manifest with a name, or without one.
pub(super) fn named(plain: &Descriptor, name: Option<&str>, root: Option<&str>) -> Descriptor {
    let mut descriptor = plain.clone();
    let pairs = [(ANNOTATION_REF_NAME, name), (ROOT_ANNOTATION, root)];
    let annotations: HashMap<String, String> = pairs
        .into_iter()
        .filter_map(|(key, value)| value.map(|value| (key.to_owned(), value.to_owned())))
        .collect();
    descriptor.set_annotations((!annotations.is_empty()).then_some(annotations));
    descriptor
}

/// Marks a descriptor as removed, and takes its name.
pub(super) fn mark_removed(descriptor: &mut Descriptor) {
    descriptor.set_annotations(Some(HashMap::from([(REMOVED_ANNOTATION.to_owned(), "true".to_owned())])));
}

/// Gives a manifest a name; whatever had it loses it, and stays without one where it has no other.
pub(super) fn give_name(index: &mut ImageIndex, plain: &Descriptor, name: Option<&str>, root: Option<&str>) {
    let mut manifests = index.manifests().clone();
    if let Some(name) = name {
        let loses = |descriptor: &Descriptor| record(descriptor).name == Some(name);
        for descriptor in manifests.iter_mut().filter(|descriptor| loses(descriptor)) {
            let root = record(descriptor).root.map(str::to_owned);
            *descriptor = named(descriptor, None, root.as_deref());
        }
    }
    let is_same = |descriptor: &Descriptor| descriptor.digest() == plain.digest();
    let has_names = manifests.iter().any(|other| is_same(other) && record(other).name.is_some());
    if name.is_some() || !has_names {
        manifests.retain(|other| !is_same(other) || record(other).name.is_some());
        manifests.push(named(plain, name, root));
    }
    index.set_manifests(tidied(manifests));
}

/// Takes a name away; says whether it was there. Its image stays, without a name where it has no other.
pub(super) fn take_name(index: &mut ImageIndex, name: &str) -> bool {
    let mut manifests = index.manifests().clone();
    let mut was_there = false;
    for descriptor in manifests.iter_mut().filter(|descriptor| record(descriptor).name == Some(name)) {
        let root = record(descriptor).root.map(str::to_owned);
        *descriptor = named(descriptor, None, root.as_deref());
        was_there = true;
    }
    index.set_manifests(tidied(manifests));
    was_there
}

/// Leaves of each manifest the descriptors with a name, or else one without.
fn tidied(manifests: Vec<Descriptor>) -> Vec<Descriptor> {
    let mut tidy: Vec<Descriptor> = Vec::with_capacity(manifests.len());
    for descriptor in &manifests {
        let same = |other: &&Descriptor| other.digest() == descriptor.digest();
        let is_needed = record(descriptor).name.is_some()
            || (!manifests.iter().filter(same).any(|other| record(other).name.is_some())
                && !tidy.iter().any(|other| same(&other)));
        if is_needed {
            tidy.push(descriptor.clone());
        }
    }
    tidy
}

impl Store {
    /// Reads index.json.
    pub(super) fn index(&self) -> Result<ImageIndex, ImageError> {
        let path = self.index_file();
        let bytes = read_bounded(&path, INDEX_LIMIT).map_err(ImageError::file(&path, "read"))?;
        manifest::parse(&path.display().to_string(), &bytes)
    }

    /// Changes index.json, when nobody else does. Blocks for a moment.
    pub(super) fn change_index<T>(
        &self,
        change: impl FnOnce(&mut ImageIndex) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let path = self.index_file();
        let lock_file = self.root().join("index.lock");
        let lock = lock::open(&lock_file).map_err(ImageError::file(&lock_file, "opened"))?;
        lock::within(&lock, lock::How::Exclusive, lock::SHORT_LIMIT)
            .map_err(ImageError::file(&lock_file, "locked"))?;
        let mut index = if path.exists() { self.index()? } else { empty() };
        let before = index.clone();
        let done = change(&mut index)?;
        if index != before || !path.exists() {
            let text =
                serde_json::to_vec(&index).map_err(|error| ImageError::invalid("index.json", error))?;
            write_whole(&self.partial(), &path, &text).map_err(ImageError::file(&path, "written"))?;
        }
        Ok(done)
    }
}

pub(super) fn empty() -> ImageIndex {
    let mut index = ImageIndex::default();
    index.set_media_type(Some(MediaType::ImageIndex));
    index
}

/// Whether a digest is that of the index or the manifest which a descriptor's name led to.
pub(super) fn leads_to(descriptor: &Descriptor, digest: &Digest) -> bool {
    descriptor.digest() == digest || record(descriptor).root == Some(digest.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::sha256;

    fn descriptor(content: &str) -> Descriptor {
        Descriptor::new(MediaType::ImageManifest, content.len() as u64, sha256(content.as_bytes()).unwrap())
    }

    fn names(index: &ImageIndex) -> Vec<(String, Option<String>)> {
        let name = |other: &Descriptor| record(other).name.map(str::to_owned);
        index.manifests().iter().map(|other| (other.digest().digest()[..4].to_owned(), name(other))).collect()
    }

    #[test]
    fn a_name_leads_to_one_image_and_an_image_has_many() {
        let (one, two) = (descriptor("one"), descriptor("two"));
        let (a, b) = (one.digest().digest()[..4].to_owned(), two.digest().digest()[..4].to_owned());
        let mut index = empty();
        give_name(&mut index, &one, None, None);
        assert_eq!(names(&index), [(a.clone(), None)]);
        give_name(&mut index, &one, Some("x"), None);
        give_name(&mut index, &one, Some("y"), None);
        give_name(&mut index, &one, None, None);
        assert_eq!(names(&index), [(a.clone(), Some("x".into())), (a.clone(), Some("y".into()))]);
        give_name(&mut index, &two, Some("x"), Some("sha256:root"));
        assert_eq!(names(&index), [(a.clone(), Some("y".into())), (b.clone(), Some("x".into()))]);
        assert!(take_name(&mut index, "x") && !take_name(&mut index, "x"));
        assert_eq!(names(&index), [(a, Some("y".into())), (b, None)]);
        assert_eq!(record(&index.manifests()[1]).root, Some("sha256:root"));
        give_name(&mut index, &two, Some("y"), None);
        assert_eq!(names(&index).len(), 2, "the other stays without a name");
    }

    #[test]
    fn what_is_removed_comes_back_with_a_name() {
        let one = descriptor("one");
        let mut index = empty();
        give_name(&mut index, &one, Some("x"), None);
        let mut manifests = index.manifests().clone();
        mark_removed(&mut manifests[0]);
        index.set_manifests(manifests);
        assert!(record(&index.manifests()[0]).is_removed);
        give_name(&mut index, &one, Some("x"), None);
        assert_eq!(index.manifests().len(), 1);
        assert!(!record(&index.manifests()[0]).is_removed);
    }
}
