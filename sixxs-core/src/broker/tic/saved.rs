//! Saves the parameters of a tunnel in a file, so that a restart needs no TIC.

use std::{fmt::Write as _, ops::RangeInclusive, str::FromStr, time::Duration};

use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::{
    Server,
    parameters::{MAX_MTU, Parameters, may_be_ends},
};
use crate::{
    broker::heartbeat_schedule::INTERVAL_SECONDS,
    secret::Secret,
    types::{InterfaceAddress, Mtu},
};

/// The request for the parameters. Parameters for another request are not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The server.
    pub server: Server,
    /// The user.
    pub username: String,
    /// The tunnel; `None`: the account's only one.
    pub tunnel_id: Option<String>,
}

/// The file cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is damaged.
    #[error("not valid TOML")]
    Syntax,
    /// A value is missing or wrong, or a later version wrote the file.
    #[error("{0}: missing or wrong")]
    Value(&'static str),
}

const VERSION: u32 = 1;

/// The text of the file. It contains the tunnel's password.
#[must_use]
pub fn text(query: &Query, parameters: &Parameters) -> Zeroizing<String> {
    let Parameters {
        id,
        kind,
        address,
        peer,
        remote4,
        local4,
        password,
        heartbeat_interval,
        mtu,
        pop,
    } = parameters;
    // More capacity than the text needs: a reallocation would leave an unwiped copy.
    let mut text = Zeroizing::new(String::with_capacity(16 * 1024));
    text.push_str(
        "# Parameters of this tunnel from the broker. Written by sixxs; holds a password.\n",
    );
    let mut number = |key: &str, value: u64| {
        // Writing into a String does not fail.
        let _infallible = writeln!(text, "{key} = {value}");
    };
    number("version", VERSION.into());
    number("mtu", mtu.0.into());
    number("heartbeat_seconds", heartbeat_interval.as_secs());
    let mut string = |key: &str, value: &str| quote(&mut text, key, value);
    string("server", &query.server.to_string());
    string("username", &query.username);
    if let Some(id) = &query.tunnel_id {
        string("tunnel_id", id);
    }
    string("id", id);
    string("kind", kind.name());
    string("address", &format!("{}/{}", address.address, address.bits));
    string("peer", &peer.to_string());
    string("remote4", &remote4.to_string());
    if let Some(local4) = local4 {
        string("local4", &local4.to_string());
    }
    if let Some(password) = password {
        string("password", password.expose());
    }
    string("pop", pop);
    text
}

/// A line with a basic string (TOML 1.0, "String").
fn quote(text: &mut String, key: &str, value: &str) {
    text.push_str(key);
    text.push_str(" = \"");
    for c in value.chars() {
        // Writing into a String does not fail.
        let _infallible = match c {
            '"' | '\\' => write!(text, "\\{c}"),
            c if c.is_control() => write!(text, "\\u{:04x}", u32::from(c)),
            c => write!(text, "{c}"),
        };
    }
    text.push_str("\"\n");
}

/// Reads the file.
pub fn read(text: &str) -> Result<(Query, Parameters), Unusable> {
    // The library's message would quote the line, which may contain the password.
    let table = DeTable::parse(text).map_err(|_| Unusable::Syntax)?;
    let saved = Saved(table.into_inner());
    saved.number("version", VERSION..=VERSION)?;
    let query = Query {
        server: saved.needed("server")?,
        username: saved.needed("username")?,
        tunnel_id: saved.parsed("tunnel_id")?,
    };
    let seconds = saved.number("heartbeat_seconds", INTERVAL_SECONDS)?;
    let parameters = Parameters {
        id: saved.needed("id")?,
        kind: saved.needed("kind")?,
        address: saved.needed("address")?,
        peer: saved.needed("peer")?,
        remote4: saved.needed("remote4")?,
        local4: saved.parsed("local4")?,
        password: saved.string("password").map(Secret::from),
        heartbeat_interval: Duration::from_secs(seconds.into()),
        mtu: Mtu(saved.number("mtu", Mtu::MINIMUM.0..=MAX_MTU.0)?),
        pop: saved.needed("pop")?,
    };
    if parameters.kind.is_signed() && parameters.password.is_none() {
        return Err(Unusable::Value("password"));
    }
    // An earlier version may have saved such an address.
    if !InterfaceAddress::TUNNEL_BITS.contains(&parameters.address.bits) {
        return Err(Unusable::Value("address"));
    }
    if !may_be_ends(parameters.address.address, parameters.peer) {
        return Err(Unusable::Value("peer"));
    }
    Ok((query, parameters))
}

struct Saved<'a>(DeTable<'a>);

impl Saved<'_> {
    fn string(&self, key: &str) -> Option<&str> {
        match self.0.get(key)?.get_ref() {
            DeValue::String(text) => Some(text),
            _ => None,
        }
    }

    /// `None` if the key is missing.
    fn parsed<T: FromStr>(&self, key: &'static str) -> Result<Option<T>, Unusable> {
        if self.0.get(key).is_none() {
            return Ok(None);
        }
        let parsed = self.string(key).and_then(|text| text.parse().ok());
        parsed.map(Some).ok_or(Unusable::Value(key))
    }

    fn needed<T: FromStr>(&self, key: &'static str) -> Result<T, Unusable> {
        self.parsed(key)?.ok_or(Unusable::Value(key))
    }

    fn number(&self, key: &'static str, range: RangeInclusive<u32>) -> Result<u32, Unusable> {
        let number = match self.0.get(key).map(|value| value.get_ref()) {
            Some(DeValue::Integer(integer)) => {
                u32::from_str_radix(integer.as_str(), integer.radix()).ok()
            }
            _ => None,
        };
        number
            .filter(|number| range.contains(number))
            .ok_or(Unusable::Value(key))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::Kind, *};

    fn example(password: &str) -> (Query, Parameters) {
        let query = Query {
            server: "tic.example:4000".parse().unwrap(),
            username: "a \"quoted\" \\ name\u{7f}".to_owned(),
            tunnel_id: Some("T42".to_owned()),
        };
        let parameters = Parameters {
            id: "T42".to_owned(),
            kind: Kind::Ayiya,
            address: "2001:db8:2ff:1::2/64".parse().unwrap(),
            peer: "2001:db8:2ff:1::1".parse().unwrap(),
            remote4: "198.51.100.1".parse().unwrap(),
            local4: Some("192.0.2.1".parse().unwrap()),
            password: Some(Secret::from(password)),
            heartbeat_interval: Duration::from_secs(60),
            mtu: Mtu(1428),
            pop: "nlams01".to_owned(),
        };
        (query, parameters)
    }

    #[test]
    fn a_written_file_is_read_back() {
        let (query, parameters) = example("hartslag");
        let text = text(&query, &parameters);
        assert_eq!(read(&text), Ok((query.clone(), parameters.clone())));

        let query = Query {
            tunnel_id: None,
            ..query
        };
        let parameters = Parameters {
            kind: Kind::SixInFour,
            local4: None,
            password: None,
            ..parameters
        };
        assert_eq!(
            read(&super::text(&query, &parameters)),
            Ok((query, parameters))
        );
    }

    #[test]
    fn unusable_files() {
        let (query, parameters) = example("hartslag");
        let good = text(&query, &parameters);
        for (instead, words, expected) in [
            ("version = 1", "version = 2", Unusable::Value("version")),
            ("mtu = 1428", "mtu = 1500", Unusable::Value("mtu")),
            ("password = \"hartslag\"", "", Unusable::Value("password")),
            ("\"198.51.100.1\"", "7", Unusable::Value("remote4")),
            ("::2/64", "::2/16", Unusable::Value("address")),
            (":1::1\"", ":2::1\"", Unusable::Value("peer")),
            (":1::1\"", ":1::2\"", Unusable::Value("peer")),
            ("remote4 = ", "remote4 ", Unusable::Syntax),
        ] {
            assert_eq!(read(&good.replace(instead, words)), Err(expected));
        }
        for end in 0..good.len() {
            if let Ok(read) = read(&good[..end]) {
                // A file without the final newline is still complete.
                assert_eq!(
                    (end, read),
                    (good.len() - 1, (query.clone(), parameters.clone()))
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_is_too_strange(text in "\\PC{0,200}", password in any::<String>()) {
            let _either = read(&text);
            let (query, parameters) = example(&password);
            prop_assert_eq!(read(&super::text(&query, &parameters)), Ok((query, parameters)));
        }
    }
}
