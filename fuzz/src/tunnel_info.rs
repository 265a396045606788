//! The body of the target `tunnel_info`: the data of an account's tunnels at Hurricane Electric.

use sixxs_core::{
    config,
    init::hurricane::{Account, UPDATE_URL, config as configuration, read},
};

/// Valid data becomes a configuration without a syntax error. Two tunnels may contradict each other.
pub(super) fn body(bytes: &[u8]) {
    let Ok(tunnels) = read(bytes) else {
        return;
    };
    let account = Account {
        user: "me",
        key_file: "key",
        update_url: UPDATE_URL,
        ca: None,
    };
    let key = |_: &str| Ok(b"geheim".to_vec().into());
    let text = configuration(&tunnels, &account);
    if let Err(invalid) = config::parse_with("f", &text, &key) {
        let mut faults = invalid.diagnostics.iter();
        assert!(
            faults.all(|fault| !fault.key.is_empty()),
            "{invalid}: {text}"
        );
    }
}
