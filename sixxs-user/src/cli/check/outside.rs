//! The outside tests, which the daemon carries out.

use std::path::Path;

use super::Check;
use crate::control::{
    api::{LeftOut, OutsideRequest, OutsideTest, OutsideTests},
    client,
};

/// The checks: one per direction, and one per link that is left out. Why a link is down is no question of this test.
pub(super) async fn checks(socket: &Path, names: &[String]) -> anyhow::Result<Vec<Check>> {
    let request = OutsideRequest {
        links: names.to_vec(),
    };
    let answer: OutsideTests = client::ask(socket, "/v1/check/outside", &request).await?;
    let tests = answer.tests.into_iter().map(check);
    Ok(tests
        .chain(answer.left_out.into_iter().map(left_out))
        .collect())
}

fn left_out(left_out: LeftOut) -> Check {
    Check {
        tunnel: left_out.link,
        check: "outside",
        pass: true,
        detail: format!("left out: {}", left_out.reason),
        inside: None,
        outside: None,
    }
}

fn check(test: OutsideTest) -> Check {
    let detail = match &test.hint {
        Some(hint) => format!("{}; {hint}", test.sentence),
        None => test.sentence.clone(),
    };
    Check {
        tunnel: test.from.clone(),
        check: "outside",
        pass: test.pass,
        detail,
        inside: None,
        outside: Some(test),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_named_after_the_sender() {
        let test = OutsideTest {
            from: "sixxs0".to_owned(),
            to: "sixxs1".to_owned(),
            sentence: "a sentence".to_owned(),
            hint: Some("a hint".to_owned()),
            ..OutsideTest::default()
        };
        let found = check(test.clone());
        assert_eq!((found.tunnel.as_str(), found.pass), ("sixxs0", false));
        assert_eq!(found.detail, "a sentence; a hint");
        let plain = check(OutsideTest {
            pass: true,
            hint: None,
            ..test
        });
        assert!(plain.pass && plain.detail == "a sentence");
        let other = left_out(LeftOut {
            link: "sixxs2".to_owned(),
            reason: "it is down".to_owned(),
        });
        assert!(other.pass && other.detail == "left out: it is down");
    }
}
