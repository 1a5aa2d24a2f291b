//! Which of an image's variants is for this machine.

use std::fmt;
use std::str::FromStr;

use oci_spec::image::{ImageConfiguration, Platform as OfDescriptor};

use crate::error::ImageError;

/// A system and a processor, in Go's names of them: `linux/amd64`, `linux/arm/v7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// Such as `linux`.
    pub os: String,
    /// Such as `amd64` or `arm64`.
    pub architecture: String,
    /// Such as `v7`; empty where there is nothing to tell apart.
    pub variant: String,
}

impl Platform {
    /// This machine's.
    #[must_use]
    pub fn host() -> Self {
        Self::normal("linux", std::env::consts::ARCH, "")
    }

    /// With the names that others have for the same, as containerd takes them.
    fn normal(os: &str, architecture: &str, variant: &str) -> Self {
        let (architecture, variant) = match (architecture, variant) {
            ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("x86" | "i386" | "i486" | "i586" | "i686", _) => ("386", ""),
            ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("powerpc64" | "ppc64el", variant) => ("ppc64le", variant),
            other => other,
        };
        let os = if os.is_empty() { "linux" } else { os };
        Self { os: os.to_ascii_lowercase(), architecture: architecture.into(), variant: variant.into() }
    }

    pub(crate) fn of_descriptor(platform: &OfDescriptor) -> Self {
        let variant = platform.variant().as_deref().unwrap_or_default();
        Self::normal(&platform.os().to_string(), &platform.architecture().to_string(), variant)
    }

    pub(crate) fn of_config(config: &ImageConfiguration) -> Self {
        let variant = config.variant().as_deref().unwrap_or_default();
        Self::normal(&config.os().to_string(), &config.architecture().to_string(), variant)
    }

    /// How well an image suits, where this is what is wanted: less is better, `None` is not at all.
    pub(crate) fn suits(&self, image: &Self) -> Option<usize> {
        if self.os != image.os {
            return None;
        }
        if image.architecture.is_empty() {
            // Whoever does not say it has nothing that depends on it.
            return Some(usize::MAX);
        }
        self.runs().iter().position(|(architecture, variant)| {
            (architecture, variant) == (&image.architecture.as_str(), &image.variant.as_str())
        })
    }

    /// What such a machine runs, the best first: all lower variants, and the 32 bits of the same family.
    fn runs(&self) -> Vec<(&str, &str)> {
        const OF_AMD64: [&str; 4] = ["v4", "v3", "v2", ""];
        const OF_ARM: [&str; 4] = ["v8", "v7", "v6", "v5"];
        let from = |all: [&'static str; 4], first: &str| {
            all.into_iter().skip_while(move |variant| *variant != first).collect::<Vec<_>>()
        };
        let own = (self.architecture.as_str(), self.variant.as_str());
        let mut runs = vec![own];
        match own.0 {
            "amd64" => {
                runs.extend(from(OF_AMD64, own.1).into_iter().map(|variant| ("amd64", variant)));
                runs.push(("386", ""));
            }
            "arm64" => {
                runs.push(("arm64", ""));
                runs.extend(OF_ARM.map(|variant| ("arm", variant)));
            }
            "arm" => runs.extend(from(OF_ARM, own.1).into_iter().map(|variant| ("arm", variant))),
            _ => {}
        }
        runs
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

impl FromStr for Platform {
    type Err = ImageError;

    /// Reads `os/architecture`, `os/architecture/variant`, or an architecture alone.
    fn from_str(text: &str) -> Result<Self, ImageError> {
        let parts: Vec<&str> = text.split('/').collect();
        let is_name = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        };
        match parts.as_slice() {
            parts if !parts.iter().all(is_name) => {}
            [architecture] => return Ok(Self::normal("linux", architecture, "")),
            [os, architecture] => return Ok(Self::normal(os, architecture, "")),
            [os, architecture, variant] => return Ok(Self::normal(os, architecture, variant)),
            _ => {}
        }
        Err(ImageError::BadReference {
            reference: text.into(),
            why: "a platform is os/architecture or os/architecture/variant, such as linux/arm64".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn one_platform_has_one_name() {
        for (given, normal) in [
            ("amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("Linux/riscv64", "linux/riscv64"),
        ] {
            assert_eq!(platform(given).to_string(), normal, "{given}");
        }
        for bad in ["", "/", "linux/", "linux/amd64/v2/x", "linux amd64"] {
            bad.parse::<Platform>().unwrap_err();
        }
    }

    #[test]
    fn a_machine_runs_what_is_lower_and_nothing_else() {
        fn best<'a>(wanted: &str, offered: &[&'a str]) -> Vec<&'a str> {
            let wanted = platform(wanted);
            let rank = |text: &&str| wanted.suits(&platform(text));
            let mut suiting: Vec<&str> =
                offered.iter().copied().filter(|text| rank(text).is_some()).collect();
            suiting.sort_by_key(rank);
            suiting
        }
        let all = [
            "linux/386",
            "linux/amd64",
            "linux/amd64/v3",
            "linux/arm/v7",
            "linux/arm/v5",
            "linux/arm64",
            "windows/amd64",
        ];
        assert_eq!(best("linux/amd64", &all), ["linux/amd64", "linux/386"]);
        assert_eq!(best("linux/amd64/v4", &all), ["linux/amd64/v3", "linux/amd64", "linux/386"]);
        assert_eq!(best("linux/arm/v6", &all), ["linux/arm/v5"]);
        assert_eq!(best("linux/arm64", &all), ["linux/arm64", "linux/arm/v7", "linux/arm/v5"]);
        assert_eq!(best("linux/s390x", &all), [""; 0]);
    }
}
