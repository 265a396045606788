//! The arguments of `sixxs explain`, and their validation.

use std::net::{Ipv4Addr, Ipv6Addr};

use clap::Args;
use nix::unistd::User;
use sixxs_core::{link::Links, types::IfIndex};

/// The arguments of `sixxs explain`.
#[derive(Args)]
pub(in crate::cli) struct Arguments {
    /// The packet's source, an IPv6 address.
    #[arg(value_name = "SRC")]
    pub(super) source: String,
    /// Its destination; a link-local one with its interface: fe80::1%net0.
    #[arg(value_name = "DST")]
    pub(super) destination: String,
    /// Owner of the sending process, by name or number; default: you.
    #[arg(long, value_name = "USER", conflicts_with = "iif", value_parser = uid)]
    pub(super) uid: Option<u32>,
    /// The packet's mark, such as 7 or 0x7.
    #[arg(long, value_name = "MARK", value_parser = mark)]
    pub(super) mark: Option<u32>,
    /// The interface that the sending socket is bound to.
    #[arg(long, value_name = "INTERFACE", conflicts_with = "iif")]
    pub(super) oif: Option<String>,
    /// The interface that receives it, for a forwarded packet.
    #[arg(long, value_name = "INTERFACE")]
    pub(super) iif: Option<String>,
    /// Its length in bytes, headers included.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(40..=65575))]
    pub(super) size: Option<u32>,
    /// Also send such a packet, an echo request, keep it from the wire, and show what the kernel did with it.
    #[arg(long, conflicts_with = "iif")]
    pub(super) live: bool,
}

/// An invalid argument.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(in crate::cli) struct BadArgument(pub(super) String);

fn uid(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err("there is no such user; expected a name or a number".to_owned()),
        Err(error) => Err(format!("look the user up: {error}")),
    }
}

fn mark(text: &str) -> Result<u32, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| "expected a number, such as 7 or 0x7".to_owned())
}

/// An address, with its interface if there is one after a `%`.
pub(super) fn address(text: &str) -> Result<(Ipv6Addr, Option<String>), BadArgument> {
    let (address, scope) = match text.split_once('%') {
        Some((address, scope)) => (address, Some(scope.to_owned())),
        None => (text, None),
    };
    let expected = |what: &str| BadArgument(format!("{text:?}: {what}"));
    if address.parse::<Ipv4Addr>().is_ok() {
        return Err(expected("that is IPv4; tunnels' rules apply to IPv6 only"));
    }
    let address: Ipv6Addr = address
        .parse()
        .map_err(|_| expected("expected an IPv6 address, such as 2001:db8::1"))?;
    if address.is_multicast() {
        return Err(expected("expected an address of one host, not a group's"));
    }
    if address.is_unspecified() {
        return Err(expected("expected an address of a host"));
    }
    Ok((address, scope))
}

/// Looks an interface up by its name, if there is one.
pub(super) fn interface(
    links: &Links,
    name: Option<&String>,
) -> Result<(Option<String>, Option<IfIndex>), BadArgument> {
    let Some(name) = name else {
        return Ok((None, None));
    };
    let link = name.parse().ok().and_then(|name| links.by_name(&name));
    let link = link.ok_or_else(|| BadArgument(format!("there is no interface {name:?}")))?;
    Ok((Some(name.clone()), Some(link.index)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_names_and_numbers() {
        assert_eq!(uid("root"), Ok(0));
        assert_eq!(uid("1234"), Ok(1234));
        for nobody in ["no-such-user-here", "", "-1"] {
            let error = uid(nobody).unwrap_err();
            assert!(error.contains("no such user"), "{nobody}: {error}");
        }
    }

    #[test]
    fn invalid_arguments_are_explained() {
        for (text, expected) in [
            ("192.0.2.1", "IPv4"),
            ("nonsense", "expected an IPv6 address"),
            ("2001:db8::1/64", "expected an IPv6 address"),
            ("ff02::1", "not a group's"),
            ("::", "of a host"),
        ] {
            let error = address(text).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(text), "{error}");
        }
        assert_eq!(address("fe80::1%net0").unwrap().1.as_deref(), Some("net0"));
    }
}
