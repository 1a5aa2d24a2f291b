//! Versions of the specification.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A version of the specification that this client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CniVersion {
    /// Rich results, chains.
    #[serde(rename = "0.3.0")]
    V0_3_0,
    /// The same, with a typing error mended.
    #[serde(rename = "0.3.1")]
    V0_3_1,
    /// CHECK, and the previous result at DEL.
    #[serde(rename = "0.4.0")]
    V0_4_0,
    /// Lists alone; addresses without their version.
    #[serde(rename = "1.0.0")]
    V1_0_0,
    /// GC and STATUS.
    #[serde(rename = "1.1.0")]
    V1_1_0,
}

impl CniVersion {
    /// All, the oldest first.
    pub const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Reads one; `None` for versions that this client does not speak.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    pub(crate) fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    pub(crate) fn has_gc(self) -> bool {
        self >= Self::V1_1_0
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
