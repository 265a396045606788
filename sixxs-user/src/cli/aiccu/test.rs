//! Checks everything that a tunnel needs, in that order, and continues after errors.

use std::{net::IpAddr, process::ExitCode};

use sixxs_core::broker::tic::{Parameters, saved::Query};

use super::{Account, lists, read};
use crate::{
    broker::{
        cache::Cache,
        tic::{self, Goal, Outcome},
    },
    cli::output,
    control::{api::State, client::NoDaemon},
    host::{paths::Paths, ping::ping},
};

/// One check.
struct Check {
    what: &'static str,
    outcome: Result<String, String>,
}

pub(super) async fn test(paths: &Paths, account: &Account) -> anyhow::Result<ExitCode> {
    let conf = read(&account.file.file)?;
    let mut checks = vec![Check {
        what: "configuration",
        outcome: Ok(format!("{}: good", conf.path)),
    }];
    let query = Query {
        server: conf.aiccu.server.clone(),
        username: conf.aiccu.username.clone(),
        tunnel_id: conf.aiccu.tunnel_id.clone(),
    };
    let cache = Cache::new(&paths.state_dir);
    // Saved parameters need no connect.
    let parameters = match cache.load(&conf.aiccu.interface, &query).await {
        Some(parameters) => Ok(parameters),
        None => fetch(paths, account, &conf).await,
    };
    checks.push(Check {
        what: "broker",
        outcome: parameters.as_ref().map(describe).map_err(Clone::clone),
    });
    let tunnel = match conf.tunnel(paths).await {
        Ok(tunnel) => tunnel.ok_or_else(|| "it is not running".to_owned()),
        Err(error) if error.is::<NoDaemon>() => Err("it is not running".to_owned()),
        Err(error) => Err(format!("{error:#}")),
    };
    checks.push(Check {
        what: "tunnel",
        outcome: match &tunnel {
            Ok(tunnel) if tunnel.state == State::Up => Ok(format!("{} is up", tunnel.name)),
            Ok(tunnel) => Err(format!(
                "{} is {}: {}",
                tunnel.name,
                tunnel.state,
                tunnel.reason.as_deref().unwrap_or("no reason is known")
            )),
            Err(reason) => Err(reason.clone()),
        },
    });
    if let (Ok(parameters), Ok(_)) = (&parameters, &tunnel) {
        let address = parameters.address.address;
        checks.push(Check {
            what: "far end",
            outcome: match ping(address, parameters.peer) {
                Ok(Some(time)) => Ok(format!("{} answers, {time:.1?}", parameters.peer)),
                Ok(None) => Err(format!("{} does not answer", parameters.peer)),
                Err(error) => Err(format!("{}: {error:#}", parameters.peer)),
            },
        });
    }
    let all_good = checks.iter().all(|check| check.outcome.is_ok());
    for Check { what, outcome } in checks {
        let (verdict, words) = match outcome {
            Ok(words) => ("pass", words),
            Err(words) => ("FAIL", words),
        };
        output::print(&format!("{verdict}  {what:<14} {words}\n"))?;
    }
    Ok(output::exit_code(all_good))
}

async fn fetch(paths: &Paths, account: &Account, conf: &super::Conf) -> Result<Parameters, String> {
    let connects = lists::connects(paths).map_err(|error| format!("{error:#}"))?;
    let goal = Goal::Parameters {
        tunnel_id: conf.aiccu.tunnel_id.clone(),
    };
    match tic::fetch(lists::request(conf, account, goal), &connects).await {
        Ok(Outcome::Parameters(parameters)) => Ok(parameters),
        Ok(_) => Err("the server sent an unexpected answer".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn describe(parameters: &Parameters) -> String {
    format!(
        "{}: {} from {} ({}) to {}, by {}",
        parameters.id,
        parameters.kind,
        parameters.address.address,
        parameters.pop,
        parameters.peer,
        IpAddr::V4(parameters.remote4)
    )
}
