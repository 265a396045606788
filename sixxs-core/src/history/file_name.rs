//! The name of a tunnel's file.
//!
//! Names of interfaces, and patterns for them, may have characters that are awkward in a directory, such as `*` or a leading
//! dot. Such bytes are written as `%` and two hexadecimal digits. No name of an interface has a `%`.

use crate::types::IfName;

/// The end of the name of each file.
const EXTENSION: &str = ".ring";

/// The end of the name of a file that was set aside.
pub const ASIDE: &str = ".old";

/// The name of the file of a tunnel.
#[must_use]
pub fn of(tunnel: &IfName) -> String {
    let mut name = String::new();
    for (index, byte) in tunnel.as_str().bytes().enumerate() {
        let is_plain =
            byte.is_ascii_alphanumeric() || (index > 0 && matches!(byte, b'-' | b'_' | b'.'));
        match is_plain {
            true => name.push(char::from(byte)),
            false => name += &format!("%{byte:02x}"),
        }
    }
    name + EXTENSION
}

/// The tunnel of a file; `None`: it is the file of no tunnel.
#[must_use]
pub fn tunnel(file: &str) -> Option<IfName> {
    let encoded = file.strip_suffix(EXTENSION)?;
    let mut bytes = Vec::new();
    let mut parts = encoded.split('%');
    bytes.extend(parts.next()?.bytes());
    for part in parts {
        let digits = part.get(..2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(part.get(2..)?.bytes());
    }
    let tunnel: IfName = String::from_utf8(bytes).ok()?.parse().ok()?;
    // Another spelling of the name is another file.
    (of(&tunnel) == file).then_some(tunnel)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn awkward_characters_are_written_as_digits() {
        for (name, file) in [
            ("sixxs0", "sixxs0.ring"),
            ("he-ipv6.1", "he-ipv6.1.ring"),
            ("ppp*", "ppp%2a.ring"),
            (".hidden", "%2ehidden.ring"),
            ("-rf", "%2drf.ring"),
            ("é", "%c3%a9.ring"),
        ] {
            let parsed: IfName = name.parse().unwrap();
            assert_eq!(of(&parsed), file);
            assert_eq!(tunnel(file), Some(parsed));
        }
    }

    #[test]
    fn other_files_belong_to_no_tunnel() {
        for file in [
            "",
            ".ring",
            "sixxs0",
            "sixxs0.ring.old",
            "%73ixxs0.ring",
            "ppp%2A.ring",
            "a%.ring",
            "a%2.ring",
            "a%é.ring",
            "a%+1.ring",
            "%ff.ring",
            "name-with-sixteen.ring",
        ] {
            assert_eq!(tunnel(file), None, "{file}");
        }
    }

    proptest! {
        #[test]
        fn every_name_has_a_file_of_its_own(text in "\\PC{1,15}") {
            if let Ok(name) = text.parse::<IfName>() {
                let file = of(&name);
                prop_assert!(file.is_ascii() && !file.starts_with('.') && !file.contains('/'));
                prop_assert_eq!(tunnel(&file), Some(name));
            }
        }

        #[test]
        fn no_file_name_is_too_strange(file in "\\PC*") {
            // It must not panic.
            let found = tunnel(&file);
            prop_assert!(found.is_none_or(|name| of(&name) == file));
        }
    }
}
