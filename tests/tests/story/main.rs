//! The whole job once through, told as a story on real packets. Each module is one scene.
//!
//! Scenes 1 to 7 are told for tunnels without a link layer (`tun`) and with one (`veth`); those
//! that depend on how programs are attached again under clsact. Some are told for WireGuard as well,
//! where the kernel has it.

/// Makes tests of a scene, one per variant: name(flavour, hook).
macro_rules! variants {
    ($scene:ident: $($name:ident($flavour:ident, $hook:ident)),+ $(,)?) => {
        $(
            #[test]
            fn $name() -> anyhow::Result<()> {
                use sixxs_tests::lab::topology::Flavour;
                if Flavour::$flavour == Flavour::WireGuard {
                    let has = sixxs_tests::kernel::has_wireguard()?;
                    if !sixxs_tests::kernel::can_run("wireguard", has)? {
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
