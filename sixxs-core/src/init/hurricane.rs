//! The tunnels of an account at Hurricane Electric: reads `tunnelInfo.php`, and writes a configuration.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use roxmltree::{Document, Node};

use super::{comment, quoted};
use crate::types::{InterfaceAddress, Prefix};

/// Where Hurricane Electric has the data of an account's tunnels.
pub const INFO_URL: &str = "https://tunnelbroker.net/tunnelInfo.php";

/// Where Hurricane Electric takes updates of endpoints.
pub const UPDATE_URL: &str = "https://ipv4.tunnelbroker.net/nic/update";

/// The maximum size of the data, in bytes. An account has at most five tunnels, unless it pays for more.
pub const MAX_BYTES: usize = 256 * 1024;

/// The maximum number of tunnels.
const MOST_TUNNELS: usize = 100;

/// MTU of a new tunnel.
const MTU: u32 = 1480;

/// A tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HurricaneTunnel {
    /// Its number.
    pub id: u32,
    /// Its description.
    pub description: String,
    /// "Server IPv4 Address".
    pub server4: Ipv4Addr,
    /// "Client IPv4 Address".
    pub client4: Ipv4Addr,
    /// "Server IPv6 Address".
    pub server6: Ipv6Addr,
    /// "Client IPv6 Address", with its length.
    pub client6: InterfaceAddress,
    /// "Routed /64" and "Routed /48".
    pub routed: Vec<Prefix>,
}

/// The data cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is too long.
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// It is not text.
    #[error("it is not UTF-8")]
    NotText,
    /// It is not XML.
    #[error("it is not XML: {0}")]
    NotXml(roxmltree::Error),
    /// It is another document.
    #[error("expected <tunnels>, found <{0}>")]
    OtherDocument(String),
    /// There are too many tunnels.
    #[error("it has more than {MOST_TUNNELS} tunnels")]
    TooMany,
    /// A tunnel has no number.
    #[error("a tunnel has no number")]
    NoNumber,
    /// A value of a tunnel is missing, or wrong.
    #[error("tunnel {id}: expected {expected} in <{key}>")]
    Value {
        /// The number of the tunnel.
        id: u32,
        /// The element.
        key: &'static str,
        /// The expected value.
        expected: &'static str,
    },
}

/// Reads the data.
pub fn read(bytes: &[u8]) -> Result<Vec<HurricaneTunnel>, Unusable> {
    if bytes.len() > MAX_BYTES {
        return Err(Unusable::TooLong);
    }
    let text = str::from_utf8(bytes).map_err(|_| Unusable::NotText)?;
    let document = Document::parse(text).map_err(Unusable::NotXml)?;
    let root = document.root_element();
    if root.tag_name().name() != "tunnels" {
        return Err(Unusable::OtherDocument(comment(root.tag_name().name())));
    }
    let elements = root.children().filter(|node| node.has_tag_name("tunnel"));
    let mut tunnels = Vec::new();
    for element in elements {
        if tunnels.len() >= MOST_TUNNELS {
            return Err(Unusable::TooMany);
        }
        tunnels.push(tunnel(element)?);
    }
    Ok(tunnels)
}

fn tunnel(element: Node<'_, '_>) -> Result<HurricaneTunnel, Unusable> {
    let id = element.attribute("id").and_then(|id| id.parse().ok());
    let values = Values {
        element,
        id: id.ok_or(Unusable::NoNumber)?,
    };
    let client6 = values.optional("clientv6", "an IPv6 address")?;
    let routed = [
        values.optional("routed64", "an IPv6 prefix")?,
        values.optional("routed48", "an IPv6 prefix")?,
    ];
    Ok(HurricaneTunnel {
        id: values.id,
        description: values.text("description").unwrap_or_default().to_owned(),
        server4: values.needed("serverv4", "an IPv4 address")?,
        client4: values.needed("clientv4", "an IPv4 address")?,
        server6: values.address("serverv6")?,
        client6: match client6 {
            Some(InterfaceAddress { address, bits: 128 }) => InterfaceAddress { address, bits: 64 },
            Some(client6) => client6,
            None => return Err(values.wrong("clientv6", "an IPv6 address")),
        },
        routed: routed.into_iter().flatten().collect(),
    })
}

/// The values of a tunnel.
struct Values<'a, 'input> {
    element: Node<'a, 'input>,
    id: u32,
}

impl<'a> Values<'a, '_> {
    fn wrong(&self, key: &'static str, expected: &'static str) -> Unusable {
        Unusable::Value {
            id: self.id,
            key,
            expected,
        }
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        let mut children = self.element.children();
        let child = children.find(|node| node.has_tag_name(key))?;
        Some(child.text()?.trim()).filter(|text| !text.is_empty())
    }

    /// A value that may be missing.
    fn optional<T: FromStr>(
        &self,
        key: &'static str,
        expected: &'static str,
    ) -> Result<Option<T>, Unusable> {
        let parse = |text: &str| text.parse().map_err(|_| self.wrong(key, expected));
        self.text(key).map(parse).transpose()
    }

    fn needed<T: FromStr>(&self, key: &'static str, expected: &'static str) -> Result<T, Unusable> {
        let value = self.optional(key, expected)?;
        value.ok_or_else(|| self.wrong(key, expected))
    }

    /// An address, with or without a length.
    fn address(&self, key: &'static str) -> Result<Ipv6Addr, Unusable> {
        let found: InterfaceAddress = self.needed(key, "an IPv6 address")?;
        Ok(found.address)
    }
}

/// The account, for the updates of endpoints.
#[derive(Clone, Copy, Debug)]
pub struct Account<'a> {
    /// The user name.
    pub user: &'a str,
    /// The file with the key.
    pub key_file: &'a str,
    /// Where updates go.
    pub update_url: &'a str,
    /// The file with the authorities of that server.
    pub ca: Option<&'a str>,
}

/// A configuration with these tunnels.
#[must_use]
pub fn config(tunnels: &[HurricaneTunnel], account: &Account<'_>) -> String {
    let mut text = format!(
        "# The tunnels of {} at Hurricane Electric, from `sixxs init he`. Look through it; sixxs.toml(5) describes each\n\
         # key. As /etc/sixxs/sixxs.toml it takes effect by: systemctl start sixxs\n",
        comment(account.user)
    );
    for tunnel in tunnels {
        text.push('\n');
        push_tunnel(&mut text, tunnel, tunnels.len() == 1);
        push_update(&mut text, tunnel, account);
    }
    text
}

fn push_tunnel(text: &mut String, tunnel: &HurricaneTunnel, is_only: bool) {
    let HurricaneTunnel {
        id,
        description,
        server4,
        client4: _,
        server6,
        client6,
        routed,
    } = tunnel;
    let name = match is_only {
        true => "he-ipv6".to_owned(),
        false => format!("he-{id}"),
    };
    let description = match comment(description) {
        words if words.is_empty() => String::new(),
        words => format!(": {words}"),
    };
    // Writing into a String does not fail.
    let _infallible = writeln!(text, "# Tunnel {id}{description}\n[[tunnel]]");
    let mut line = |key: &str, value: String, remark: &str| {
        let _infallible = writeln!(text, "{:<41} # {remark}", format!("{key} = {value}"));
    };
    line("name", quoted(&name), "the interface");
    line("kind", quoted("6in4"), "sixxs makes the interface");
    line(
        "remote4",
        quoted(&server4.to_string()),
        "Server IPv4 Address",
    );
    let address = format!("{}/{}", client6.address, client6.bits);
    line("address", quoted(&address), "Client IPv6 Address");
    line("peer", quoted(&server6.to_string()), "Server IPv6 Address");
    if !routed.is_empty() {
        let prefixes: Vec<_> = routed
            .iter()
            .map(|prefix| quoted(&prefix.to_string()))
            .collect();
        let list = format!("[{}]", prefixes.join(", "));
        line(
            "prefixes",
            list,
            "Routed /64 and /48: what comes from them leaves by this tunnel",
        );
    }
    line(
        "mtu",
        MTU.to_string(),
        "the default; compare it with the broker's page, under Advanced",
    );
}

fn push_update(text: &mut String, tunnel: &HurricaneTunnel, account: &Account<'_>) {
    let Account {
        user,
        key_file,
        update_url,
        ca,
    } = account;
    // Writing into a String does not fail.
    let _infallible = write!(
        text,
        "\n# The broker sends to {}, and gets this host's address whenever that changes. Leave this out if the address\n\
         # never changes. If the tunnel has an \"Update Key\" (its page, under Advanced), password_file must contain that\n\
         # key, not the account's password.\n\
         [tunnel.update]\nurl = {}\nuser = {}\npassword_file = {}\nhostname = {}\n",
        tunnel.client4,
        quoted(update_url),
        quoted(user),
        quoted(key_file),
        quoted(&tunnel.id.to_string())
    );
    if let Some(ca) = ca {
        let _infallible = writeln!(text, "ca = {}", quoted(ca));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Kind, parse_with};

    const TWO: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<tunnels>
<tunnel id="4711">
  <description>at home &amp; away</description>
  <serverv4>198.51.100.1</serverv4>
  <clientv4>192.0.2.10</clientv4>
  <serverv6>2001:db8:a::1/64</serverv6>
  <clientv6>2001:db8:a::2/64</clientv6>
  <routed64>2001:db8:aa::/64</routed64>
  <routed48>2001:db8:bb::/48</routed48>
  <rdns1>ns1.example.net</rdns1>
</tunnel>
<tunnel id="4712">
  <description></description>
  <serverv4>198.51.100.2</serverv4>
  <clientv4>192.0.2.10</clientv4>
  <serverv6>2001:db8:b::1</serverv6>
  <clientv6>2001:db8:b::2</clientv6>
  <routed64>2001:db8:cc::/64</routed64>
</tunnel>
</tunnels>
"#;

    const ACCOUNT: Account<'_> = Account {
        user: "ja\"ne",
        key_file: "/etc/sixxs/he.key",
        update_url: UPDATE_URL,
        ca: None,
    };

    #[test]
    fn both_tunnels_get_a_configuration() {
        let tunnels = read(TWO.as_bytes()).unwrap();
        assert_eq!(tunnels.len(), 2);
        let text = config(&tunnels, &ACCOUNT);
        assert!(text.contains("# Tunnel 4711: at home & away\n"), "{text}");
        let files = |_: &str| Ok(b"key".to_vec().into());
        let read = parse_with("/etc/sixxs/sixxs.toml", &text, &files).unwrap();
        let [first, second] = &read.tunnels[..] else {
            panic!("{text}");
        };
        assert_eq!(
            (first.name.as_str(), second.name.as_str()),
            ("he-4711", "he-4712")
        );
        let Kind::SixInFour(six_in_four) = &first.kind else {
            panic!("{text}");
        };
        assert_eq!(six_in_four.remote4, Ipv4Addr::new(198, 51, 100, 1));
        assert_eq!(first.addresses[0], "2001:db8:a::2/64".parse().unwrap());
        assert_eq!(first.peer, Some("2001:db8:a::1".parse().unwrap()));
        assert_eq!(first.prefixes.len(), 2);
        assert_eq!(second.addresses[0], "2001:db8:b::2/64".parse().unwrap());
        assert_eq!(second.prefixes.len(), 1);
        let update = first.update.as_ref().unwrap();
        assert_eq!(
            (update.user.as_str(), update.hostname.as_str()),
            ("ja\"ne", "4711")
        );
        assert_eq!(update.url.host, "ipv4.tunnelbroker.net");
        // A single tunnel has the name of the guide.
        let text = config(&tunnels[..1], &ACCOUNT);
        assert!(text.contains("name = \"he-ipv6\""), "{text}");
        assert!(text.lines().all(|line| line.len() <= 130), "{text}");
    }

    #[test]
    #[rustfmt::skip] // one case per line
    fn other_data_gets_a_sentence() {
        let change = |from: &str, to: &str| TWO.replace(from, to);
        let many = format!("<tunnels>{}</tunnels>", "<tunnel id=\"1\"/>".repeat(2));
        for (text, expected) in [
            (String::new(), "it is not XML"),
            ("<html><body>Login</body></html>".to_owned(), "expected <tunnels>, found <html>"),
            ("<tunnels><tunnel id=\"1\">".to_owned(), "it is not XML"),
            (many, "tunnel 1: expected an IPv4 address in <serverv4>"),
            (change("id=\"4711\"", ""), "a tunnel has no number"),
            (change("id=\"4711\"", "id=\"x\""), "a tunnel has no number"),
            (change("<serverv4>198.51.100.1<", "<serverv4>198.51.100.300<"), "tunnel 4711: expected an IPv4 address in <serverv4>"),
            (change("<clientv6>2001:db8:a::2/64</clientv6>", ""), "tunnel 4711: expected an IPv6 address in <clientv6>"),
            (change("2001:db8:aa::/64", "nonsense"), "tunnel 4711: expected an IPv6 prefix in <routed64>"),
            ("x".repeat(MAX_BYTES + 1), "it is longer than"),
            // Entities that expand: the parser accepts no DTD.
            ("<!DOCTYPE t [<!ENTITY a \"b\">]><tunnels>&a;</tunnels>".to_owned(), "it is not XML"),
        ] {
            let error = read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}: {text}");
        }
        assert_eq!(read(b"\xff"), Err(Unusable::NotText));
        assert_eq!(read(b"<tunnels></tunnels>"), Ok(Vec::new()));
        let many = "<tunnel id=\"1\"><serverv4>192.0.2.1</serverv4><clientv4>192.0.2.1</clientv4>\
                    <serverv6>2001:db8::1</serverv6><clientv6>2001:db8::2</clientv6></tunnel>";
        let many = format!("<tunnels>{}</tunnels>", many.repeat(MOST_TUNNELS + 1));
        assert_eq!(read(many.as_bytes()), Err(Unusable::TooMany));
    }

    proptest! {
        #[test]
        fn no_description_breaks_the_configuration(words: String) {
            let mut tunnels = read(TWO.as_bytes()).unwrap();
            tunnels[0].description = words.clone();
            let account = Account { user: "x", key_file: &words, ..ACCOUNT };
            let text = config(&tunnels, &account);
            let files = |_: &str| Ok(b"key".to_vec().into());
            prop_assert!(parse_with("f", &text, &files).is_ok(), "{}", text);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            // No input makes it panic; random bytes are no document.
            prop_assert!(read(&bytes).is_err());
        }
    }
}
