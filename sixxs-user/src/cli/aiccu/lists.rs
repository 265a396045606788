//! Lists of the account's tunnels and the broker's PoPs, from the TIC server.

use std::process::ExitCode;

use anyhow::bail;

use super::{Account, Conf, read};
use crate::{
    broker::{
        connects::Connects,
        tic::{self, Goal, Login, Outcome, Request, Times, TlsChoice, TunnelLine},
    },
    cli::output,
    host::config_file,
    host::paths::Paths,
};

pub(super) async fn tunnels(paths: &Paths, account: &Account) -> anyhow::Result<ExitCode> {
    let Outcome::Tunnels(tunnels) = ask(paths, account, Goal::Tunnels).await? else {
        bail!("the server sent an unexpected answer");
    };
    for tunnel in tunnels {
        let TunnelLine {
            id,
            address,
            local4,
            pop,
        } = tunnel;
        output::print(&format!("{id} {address} {local4} {pop}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn pops(paths: &Paths, account: &Account) -> anyhow::Result<ExitCode> {
    let Outcome::Pops(pops) = ask(paths, account, Goal::Pops).await? else {
        bail!("the server sent an unexpected answer");
    };
    for pop in pops {
        output::print(format!("{} {}", pop.id, pop.words).trim_end())?;
        output::print("\n")?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(paths: &Paths, account: &Account, goal: Goal) -> anyhow::Result<Outcome> {
    let conf = read(&account.file.file)?;
    let request = request(&conf, account, goal);
    Ok(tic::fetch(request, &connects(paths)?).await?)
}

/// The connect ledger, with the limit of the configuration if there is one.
pub(super) fn connects(paths: &Paths) -> anyhow::Result<Connects> {
    let config = config_file::read_or_default(&paths.config)?;
    Ok(Connects::new(&paths.state_dir, config.connect_limit))
}

pub(super) fn request(conf: &Conf, account: &Account, goal: Goal) -> Request {
    let aiccu = &conf.aiccu;
    Request {
        server: aiccu.server.clone(),
        tls: TlsChoice {
            ca: account.tls.tls_ca.clone(),
            verify: !account.tls.tls_no_verify,
        },
        login: Login {
            username: aiccu.username.clone(),
            password: aiccu.password.clone(),
            require_tls: aiccu.requiretls,
            agent: tic::agent(),
        },
        goal,
        times: Times::default(),
    }
}
