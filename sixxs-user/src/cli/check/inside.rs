//! The inside tests, which the daemon carries out.

use std::path::Path;

use super::{Check, InsideOptions, filter_rules, filters};
use crate::control::{
    api::{InsideRequest, InsideTest, InsideTests, State, Tunnel},
    client,
};

/// The results for these tunnels; an error, as a message, if the daemon did not carry the tests out.
pub(super) async fn test(
    socket: &Path,
    tunnels: &[Tunnel],
    options: InsideOptions,
) -> Result<Vec<InsideTest>, String> {
    let names = tunnels.iter().map(|tunnel| tunnel.name.clone());
    let request = InsideRequest {
        tunnels: names.collect(),
        tcp: options.tcp,
        udp: options.udp,
        behind: true,
        let_go: options.let_go,
    };
    let asked = client::ask::<_, InsideTests>(socket, "/v1/check/inside", &request).await;
    let mut tests = asked.map_err(|error| format!("{error:#}"))?.tests;
    if options.trace_filters {
        filter_rules::add(socket, &request, &mut tests).await;
    }
    for test in &mut tests {
        let (true, Some(cause)) = (!test.pass, &test.cause) else {
            continue;
        };
        if let Some(hooks) = filters::hooks(cause).filter(|_| test.dropped_by.is_empty()) {
            let places = filters::places(&test.device, hooks).await;
            if !places.is_empty() {
                test.sentence += &format!(" ({})", places.join("; "));
            }
        }
    }
    Ok(tests)
}

/// The checks of a tunnel: one per address. A tunnel that is not up has none, since its state fails already.
pub(super) fn checks(
    tunnel: &str,
    state: State,
    tests: &Result<Vec<InsideTest>, String>,
) -> Vec<Check> {
    let check = |pass, detail, inside| Check {
        tunnel: tunnel.to_owned(),
        check: "inside",
        pass,
        detail,
        inside,
        outside: None,
    };
    if state != State::Up {
        return Vec::new();
    }
    match tests {
        Err(reason) => vec![check(true, format!("not tried: {reason}"), None)],
        Ok(tests) => {
            let own = tests.iter().filter(|test| test.tunnel == tunnel);
            own.map(|test| check(test.pass, detail(test), Some(test.clone())))
                .collect()
        }
    }
}

fn detail(test: &InsideTest) -> String {
    match &test.cure {
        Some(cure) => format!("{}; {cure}", test.sentence),
        None => test.sentence.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_that_is_up_has_a_check_per_address() {
        let test = |tunnel: &str, pass, cure: Option<&str>| InsideTest {
            tunnel: tunnel.to_owned(),
            pass,
            sentence: "a sentence".to_owned(),
            cure: cure.map(str::to_owned),
            ..InsideTest::default()
        };
        let tests = Ok(vec![
            test("sixxs0", true, None),
            test("sixxs1", false, None),
            test("sixxs0", false, Some("a cure")),
        ]);
        let found = checks("sixxs0", State::Up, &tests);
        let found: Vec<_> = found
            .iter()
            .map(|check| (check.pass, check.detail.as_str(), check.inside.is_some()))
            .collect();
        let expected = [
            (true, "a sentence", true),
            (false, "a sentence; a cure", true),
        ];
        assert_eq!(found, expected);
        assert!(checks("sixxs0", State::Down, &tests).is_empty());
        assert!(checks("sixxs2", State::Up, &tests).is_empty());
    }

    #[test]
    fn without_results_it_is_not_tried() {
        let refused = Err("only root may".to_owned());
        let found = checks("sixxs0", State::Up, &refused);
        assert_eq!(found.len(), 1);
        assert!(found[0].pass && found[0].detail == "not tried: only root may");
    }
}
