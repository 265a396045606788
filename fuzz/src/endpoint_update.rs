//! The body of the target `endpoint_update`.

use std::time::Duration;

use sixxs_core::{
    broker::{
        connects::Moment,
        endpoint_update::{Outcome, Record},
    },
    config,
};

/// A tunnel with endpoint updates.
const UPDATED: &str = "tunnel = [{ name = 'a', kind = '6in4', address = '2001:db8::2/64', remote4 = '198.51.100.1', \
                       update = { url = 'https://broker.example/nic/update', user = 'me', password_file = 'key', hostname = '123' } }]";

/// The answer of a server, and the record of endpoint updates.
pub(super) fn body(bytes: &[u8]) {
    let (status, body) = bytes.split_at(bytes.len().min(2));
    let status = status
        .iter()
        .fold(0, |all, byte| all << 8 | u16::from(*byte));
    for answer in [bytes, body] {
        if let Outcome::Failed(failure) = Outcome::read(status, answer, false) {
            assert!(!failure.sentence().is_empty());
        }
    }
    let key = |_: &str| Ok(b"geheim".to_vec().into());
    let tunnels = config::parse_with("f", UPDATED, &key).map(|config| config.tunnels);
    let update = tunnels
        .into_iter()
        .flatten()
        .find_map(|tunnel| tunnel.update);
    let (Some(settings), Ok(boot)) = (update, "boot-1".parse()) else {
        unreachable!("both are valid");
    };
    let since_boot = Duration::from_secs(4000);
    let now = Moment { boot, since_boot };
    if let Ok(record) = Record::read(bytes, &settings, &now) {
        let text = record.text(since_boot);
        let again = Record::read(text.as_bytes(), &settings, &now);
        assert!(again.is_ok_and(|again| again.text(since_boot) == text));
    }
}
