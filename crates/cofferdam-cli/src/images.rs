//! From the name of an image to what a container is made from.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use cofferdam::request::{HealthRequest, ImageDefaults, ImageUse, SHORTEST_PROBE};
use cofferdam::rootfs::images_in_use;
use cofferdam_image::healthcheck::Healthcheck;
use cofferdam_image::progress::Progress;
use cofferdam_image::reference::ImageName;
use cofferdam_image::source::ImageSource;
use cofferdam_image::store::{Hold, InUse, Users};
use cofferdam_image::{Image, ImageError, Platform, Store};

use crate::args::{ImageArgs, LaunchArgs, Pull, RegistryArgs, millis};
use crate::context::Context;
use crate::output::{CliError, note, warn};
use crate::progress::Shown;

/// An image whose layers are here, and stay as long as this lives.
#[derive(Debug)]
pub(crate) struct Obtained {
    pub(crate) image: Box<ImageUse>,
    _hold: Hold,
}

/// Where the store of images is, or will be.
pub(crate) fn store_dir(context: &Context) -> PathBuf {
    context.engine.data_dir().join("images")
}

/// The store of images; it is made where there is none.
pub(crate) fn store(context: &Context) -> Result<Store, CliError> {
    Ok(Store::open(&store_dir(context))?)
}

/// What the words of `run` and `create` name, where they name an image.
pub(crate) async fn obtain_if_named(
    context: &Context,
    launch: &LaunchArgs,
    words: &[String],
) -> Result<Option<Obtained>, CliError> {
    match launch.image_name(words)? {
        Some(name) => Ok(Some(obtain(context, name, &launch.image).await?)),
        None => Ok(None),
    }
}

/// Finds an image, or fetches it, and unpacks those of its layers that are not unpacked yet.
pub(crate) async fn obtain(context: &Context, text: &str, args: &ImageArgs) -> Result<Obtained, CliError> {
    let store = store(context)?;
    let hold = store.hold()?;
    let platform = platform(args.platform.as_deref())?;
    let shown = Shown::new();
    let image = match find(&store, text, args.platform.as_ref().map(|_| &platform))? {
        Some((image, _)) if args.pull != Pull::Always => image,
        None if args.pull == Pull::Never => {
            let place = "in the store, and --pull never forbids to fetch it".into();
            return Err(ImageError::NotFound { reference: text.to_owned(), place }.into());
        }
        _ => {
            note(format_args!("fetching {text}"));
            fetch(&store, &ImageName::parse(text)?, &platform, &args.registry, &shown).await?
        }
    };
    let layers = store.layers(&image, &shown).await?;
    let image = ImageUse {
        name: text.to_owned(),
        id: image.id.to_string(),
        layers,
        rootfs_dir: context.engine.rootfs_dir(),
        hold: store.lock_file(),
        defaults: defaults(&store, &image)?,
    };
    Ok(Obtained { image: Box::new(image), _hold: hold })
}

/// Brings an image into the store, under its own name if it has one.
pub(crate) async fn fetch(
    store: &Store,
    name: &ImageName,
    platform: &Platform,
    registry: &RegistryArgs,
    progress: &dyn Progress,
) -> Result<Image, CliError> {
    let (source, name): (Box<dyn ImageSource>, _) = match name {
        ImageName::Local(local) => (Box::new(local.open(store)?), None),
        ImageName::Registry(reference) => {
            (Box::new(registry.client()?.source(reference)), Some(reference.whole()))
        }
    };
    Ok(store.acquire(source.as_ref(), name.as_deref(), platform, progress).await?)
}

/// What the store has under a name or an id, and what it is called there; with a platform, for that one only.
pub(crate) fn find(
    store: &Store,
    text: &str,
    wanted: Option<&Platform>,
) -> Result<Option<(Image, String)>, CliError> {
    let names = match ImageName::parse(text) {
        Ok(ImageName::Registry(reference)) => vec![reference.whole(), text.to_owned()],
        // What lies elsewhere may have changed since.
        Ok(ImageName::Local(_)) => vec![],
        // It may be an id.
        Err(_) => vec![text.to_owned()],
    };
    for name in names {
        match store.find(&name) {
            Ok(image) if wanted.is_none_or(|wanted| *wanted == image.platform) => {
                return Ok(Some((image, name)));
            }
            Ok(_) | Err(ImageError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// The same, where it must be there.
pub(crate) fn find_here(store: &Store, text: &str) -> Result<(Image, String), CliError> {
    let not_found =
        || ImageError::NotFound { reference: text.to_owned(), place: "in the store".into() }.into();
    find(store, text, None)?.ok_or_else(not_found)
}

/// Knows what containers use, of every state directory: each root filesystem says what it is made of.
#[derive(Debug)]
pub(crate) struct Containers(pub(crate) PathBuf);

#[async_trait]
impl Users for Containers {
    async fn in_use(&self) -> Result<InUse, ImageError> {
        let mut in_use = InUse::default();
        for (container, image) in images_in_use(&self.0) {
            in_use.layers.extend(image.layers);
            in_use.images.insert(image.id, container.short().to_owned());
        }
        Ok(in_use)
    }
}

pub(crate) fn platform(text: Option<&str>) -> Result<Platform, CliError> {
    Ok(text.map(str::parse).transpose()?.unwrap_or_else(Platform::host))
}

/// What an image's configuration says of its containers.
fn defaults(store: &Store, image: &Image) -> Result<ImageDefaults, CliError> {
    let Some(config) = image.config.config() else { return Ok(ImageDefaults::default()) };
    let text = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    let health = Healthcheck::read(&store.configuration(image)?).unwrap_or_else(|error| {
        warn(format_args!("the container is not asked whether it is well: {error}"));
        None
    });
    Ok(ImageDefaults {
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        cmd: config.cmd().clone().unwrap_or_default(),
        env: config.env().clone().unwrap_or_default(),
        user: text(config.user()),
        cwd: text(config.working_dir()),
        stop_signal: text(config.stop_signal()),
        labels: config.labels().clone().unwrap_or_default().into_iter().collect(),
        volumes: config.volumes().clone().unwrap_or_default(),
        ports: config.exposed_ports().clone().unwrap_or_default(),
        health: health.map(health_request),
    })
}

fn health_request(check: Healthcheck) -> HealthRequest {
    // docker takes times that are too short for a call of a runtime.
    let probing = |time: Option<Duration>| time.map(|time| millis(time.max(SHORTEST_PROBE)));
    HealthRequest {
        command: check.command,
        interval_ms: probing(check.interval),
        timeout_ms: probing(check.timeout),
        start_period_ms: check.start_period.map(millis),
        retries: check.retries,
        ..HealthRequest::default()
    }
}
