//! Scenarios of the whole daemon with real packets in the lab. Each module is one subject.
//!
//! Many scenarios run for tunnels without a link layer (`tun`) and with one (`veth`). If the attachment of
//! the programs matters, they also run under clsact. Some also run for WireGuard, where the kernel has it.

/// Makes one test of a scenario for each variant: name(flavour, hook).
macro_rules! variants {
    ($scene:ident: $($name:ident($flavour:ident, $hook:ident)),+ $(,)?) => {
        $(
            #[test]
            fn $name() -> anyhow::Result<()> {
                use sixxs_tests::topology::Flavour;
                if Flavour::$flavour == Flavour::WireGuard {
                    let has = sixxs_tests::kernel::has_wireguard()?;
                    if !sixxs_tests::kernel::is_told("wireguard", has)? {
                        return Ok(());
                    }
                }
                $scene(
                    Flavour::$flavour,
                    sixxs_tests::program::Hook::$hook,
                )
            }
        )+
    };
}

mod adversary;
mod beside;
mod setting;

mod aiccu_commands;
mod alerts;
mod bound_socket;
mod cannot_be_had;
mod check;
mod command_tunnel;
mod config_changed;
mod control_socket;
mod culprit;
mod doctor;
mod doctor_traps;
mod down;
mod exits;
mod explain;
mod fd_store;
mod floods;
mod footprint;
mod full_tunnel;
mod health;
mod hooks;
mod kept_words;
mod lans;
mod local_networks;
mod local_rule;
mod loops;
mod many;
mod metrics;
mod native;
mod native_accounts;
mod native_attacks;
mod native_bad_path;
mod native_bounds;
mod native_crashes;
mod native_device;
mod native_names;
mod native_narrow;
mod native_restart;
mod native_secrets;
mod native_ways;
mod network_manager;
mod networkd;
mod on_leak;
mod pins;
mod plan;
mod proof;
mod recursion;
mod refusals;
mod reload;
mod reload_check;
mod replies;
mod shapes;
mod status;
mod strange_hosts;
mod subtrees;
mod tampering;
mod top;
mod top_ends;
mod tunnel_gone;
mod watchdog;
mod without_daemon;
mod without_rules;
mod wrong_config;
