//! The word `auto` in the file: the host has the value.

use std::str::FromStr;

/// What a tunnel takes from its interface, instead of from the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Follows {
    /// Its addresses.
    pub addresses: bool,
    /// Its gateway.
    pub gateway: bool,
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
