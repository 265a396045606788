//! The body of the target `wg_quick`: a file for `wg-quick`.

use std::collections::BTreeMap;

use sixxs_core::wireguard::{Device, diff, quick_file};

/// A file of wg-quick. No message shows a key, unless it is a public one.
pub(super) fn body(bytes: &[u8]) {
    match quick_file::parse("wg0.conf", bytes) {
        Ok(file) => {
            for note in &file.notes {
                assert!(note.line >= 1 && !note.text.is_empty());
            }
            assert!(format!("{file:?}").contains("(secret)"));
            let configured = Device {
                private_key: Some(file.settings.private_key.clone()),
                ..Device::default()
            };
            let changes = diff(&file.settings, &BTreeMap::new(), &configured);
            assert!(changes.len() <= file.settings.peers.len() + 1);
        }
        Err(invalid) => assert!(!invalid.to_string().is_empty()),
    }
}
