//! `[tunnel.update]`.

use std::net::Ipv4Addr;

use super::*;
use crate::{change::Change, secret::Secret};

const SIX_IN_FOUR: &str = "[[tunnel]]\nname = \"he\"\nkind = \"6in4\"\naddress = \"2001:db8::2/64\"\n\
                           remote4 = \"198.51.100.1\"\n";

const UPDATE: &str = "[tunnel.update]\nurl = \"https://broker.example/nic/update\"\nuser = \"me\"\n\
                      password_file = \"key\"\nhostname = \"123\"\n";

/// Reads a configuration whose password file has this text.
fn with_key(text: &str, key: &str) -> Result<Config, Invalid> {
    let files = |path: &str| match path {
        "/etc/sixxs/key" => Ok(key.as_bytes().to_vec().into()),
        other => Err(format!("{other}: no such file").into()),
    };
    parse_with("/etc/sixxs/f", text, &files)
}

fn update(text: &str) -> EndpointUpdate {
    let config = with_key(text, "geheim\n").unwrap();
    config.tunnels[0].update.clone().unwrap()
}

#[test]
fn it_is_read_with_its_password() {
    let text = format!("{SIX_IN_FOUR}local4 = \"192.0.2.9\"\n{UPDATE}ca = \"ca.pem\"\n");
    let read = update(&text);
    assert_eq!(read.url.host, "broker.example");
    assert_eq!((read.user.as_str(), read.hostname.as_str()), ("me", "123"));
    assert_eq!(read.password, Secret::from("geheim"));
    assert_eq!(read.ca.as_deref(), Some("/etc/sixxs/ca.pem"));
    assert_eq!(read.remote, Ipv4Addr::new(198, 51, 100, 1));
    assert_eq!(read.local4, Some(Ipv4Addr::new(192, 0, 2, 9)));
    let config = with_key(&text, "geheim").unwrap();
    assert!(!format!("{config:?}").contains("geheim"), "{config:?}");
    // The password is in the other file; a query may be one too.
    assert!(!config.has_secrets());
    let text = text.replace("nic/update", "u?token=x");
    assert!(with_key(&text, "geheim").unwrap().has_secrets());
}

#[test]
fn interfaces_of_other_software_need_the_far_end() {
    let text = "[[tunnel]]\nname = \"he\"\nkind = \"interface\"\naddress = \"2001:db8::2/64\"\n";
    let with_remote = format!("{text}remote = \"198.51.100.1\"\n{UPDATE}");
    assert_eq!(update(&with_remote).remote, Ipv4Addr::new(198, 51, 100, 1));
    for remote in [
        "",
        "remote = \"2001:db8::9\"\n",
        "remote = \"198.51.100.1:5\"\n",
    ] {
        let fault = with_key(&format!("{text}{remote}{UPDATE}"), "x").unwrap_err();
        let fault = fault.to_string();
        assert!(
            fault.contains("update: expected only together with remote"),
            "{fault}"
        );
    }
}

#[test]
fn a_server_on_this_host_needs_no_tls() {
    let http = |host: &str| UPDATE.replace("https://broker.example", &format!("http://{host}"));
    assert!(
        !update(&format!("{SIX_IN_FOUR}{}", http("127.0.0.1:8080")))
            .url
            .tls
    );
    let fault = with_key(&format!("{SIX_IN_FOUR}{}", http("broker.example")), "x");
    let fault = fault.unwrap_err().to_string();
    assert!(
        fault.contains("found http, which would show the password"),
        "{fault}"
    );
}

/// The complete message for one fault per file.
#[test]
#[rustfmt::skip] // one case per line
fn faults_are_named_in_full() {
    let change = |from: &str, to: &str| format!("{SIX_IN_FOUR}{}", UPDATE.replace(from, to));
    let long = "x".repeat(257);
    for (text, key, expected) in [
        (change("url = \"https://broker.example/nic/update\"\n", ""), "x",
         "line 6: tunnel[1].update.url: missing; expected the server, such as \"https://ipv4.tunnelbroker.net/nic/update\""),
        (change("https:", "ftp:"), "x",
         "line 7: tunnel[1].update.url: expected \"https://HOST/PATH\": it begins otherwise"),
        (change("\"me\"", "\"\""), "x",
         "line 8: tunnel[1].update.user: expected the user name at the broker, found nothing"),
        (change("\"me\"", "\"a:b\""), "x",
         "line 8: tunnel[1].update.user: expected a user name without a colon: HTTP separates the password by it"),
        (change("\"123\"", "\"1\\n2\""), "x",
         "line 10: tunnel[1].update.hostname: expected the name of the tunnel at the broker; at Hurricane Electric its number, \
          found several lines, or a control character"),
        (change("password_file = \"key\"\n", ""), "x",
         "line 6: tunnel[1].update.password_file: missing; expected the path of a file that holds the password alone"),
        (change("\"key\"", "\"other\""), "x",
         "line 9: tunnel[1].update.password_file: /etc/sixxs/other: no such file"),
        (change("", ""), "\n",
         "line 9: tunnel[1].update.password_file: /etc/sixxs/key: expected the password in one line, found nothing"),
        (change("", ""), "one\ntwo",
         "line 9: tunnel[1].update.password_file: /etc/sixxs/key: expected the password in one line, found several lines, or a \
          control character"),
        (change("", ""), &long,
         "line 9: tunnel[1].update.password_file: /etc/sixxs/key: expected the password in one line, found a text that is too long"),
        (change("hostname", "host"), "x",
         "line 6: tunnel[1].update.hostname: missing; expected the name of the tunnel at the broker; at Hurricane Electric its \
          number\nf: line 10: tunnel[1].update.host: unknown key; expected one of url, user, password_file, hostname, ca"),
        (format!("{SIX_IN_FOUR}update = 5"), "x",
         "line 6: tunnel[1].update: expected a [update] table, found 5"),
        (format!("{}password = \"x\"\n{UPDATE}", SIX_IN_FOUR.replace("6in4", "6in4-heartbeat")), "x",
         "line 7: tunnel[1].update: expected only with kind = \"6in4\", \"interface\" or \"command\": tunnels of \
          other kinds report this host's address themselves"),
    ] {
        let fault = with_key(&text, key).unwrap_err().to_string();
        let fault = fault.replace("/etc/sixxs/f: ", "f: ");
        assert_eq!(fault, format!("f: {expected}"), "{text}");
        assert!(!fault.contains("one\ntwo"), "{fault}");
    }
}

/// A changed update does not restart the tunnel.
#[test]
fn a_change_alters_the_tunnel() {
    let old = with_key(SIX_IN_FOUR, "").unwrap();
    let new = with_key(&format!("{SIX_IN_FOUR}{UPDATE}"), "geheim").unwrap();
    let other_key = with_key(&format!("{SIX_IN_FOUR}{UPDATE}"), "better").unwrap();
    for (old, new) in [(&old, &new), (&new, &old), (&new, &other_key)] {
        let change = Change::between(old, new, true);
        assert_eq!(change.altered.len(), 1);
        assert!(change.starts().is_empty() && change.stops().is_empty());
    }
}
