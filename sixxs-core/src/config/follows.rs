//! The word `auto` in the file: the host has the value.

use std::str::FromStr;

use crate::types::IfName;

/// What a tunnel takes from the host, instead of from the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Follows {
    /// Its addresses: those of its interface.
    pub addresses: bool,
    /// Its gateway: the router of its interface.
    pub gateway: bool,
    /// Its prefixes.
    pub prefixes: PrefixSource,
    /// Its direct destinations: its prefixes.
    pub direct: bool,
}

impl Follows {
    /// Whether it takes anything from the host.
    #[must_use]
    pub const fn is_any(&self) -> bool {
        self.addresses || self.gateway || self.prefixes.is_host()
    }
}

/// What knows the prefixes of a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PrefixSource {
    /// The file, which has none: other software may have got one.
    #[default]
    Unknown,
    /// The file has them, or an empty list.
    File,
    /// They are delegated to the host (`auto`).
    Delegated,
    /// They are on the link of these interfaces.
    Interfaces(Vec<IfName>),
}

impl PrefixSource {
    /// Whether it is the host.
    #[must_use]
    pub const fn is_host(&self) -> bool {
        matches!(self, Self::Delegated | Self::Interfaces(_))
    }
}

/// A value in the file, or the word `auto`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum OrAuto<T> {
    /// The host has it.
    Auto,
    /// The file has it.
    Is(T),
}

impl<T: FromStr> FromStr for OrAuto<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            text => text.parse().map(Self::Is),
        }
    }
}
