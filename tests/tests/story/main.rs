//! Scenarios on real packets. Each module has one subject.
//!
//! The basic scenarios run for tunnels without a link layer (`tun`) and with one (`veth`). Those that
//! depend on how programs are attached also run under clsact, and some run for WireGuard where the kernel
//! has it.

/// Makes tests of a scenario, one per variant: name(flavour, hook).
macro_rules! variants {
    ($scenario:ident: $($name:ident($flavour:ident, $hook:ident)),+ $(,)?) => {
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
                $scenario(
                    Flavour::$flavour,
                    sixxs_tests::program::Hook::$hook,
                )
            }
        )+
    };
}

mod fixture;
mod manager_scenario;

mod adversary;
mod aiccu_commands;
mod alert_storms;
mod alerts;
mod answer_echo;
mod bound_socket;
mod check;
mod command_tunnel;
mod config_changed;
mod control_socket;
mod delegated_prefixes;
mod deprecation;
mod doctor;
mod doctor_traps;
mod down;
mod echo_health;
mod endpoint_update;
mod exits;
mod explain;
mod explain_live;
mod fd_store;
mod followed;
mod footprint;
mod full_tunnel;
mod groups;
mod health;
mod history;
mod hooks;
mod init;
mod inside_always;
mod inside_test;
mod kernel_refusals;
mod lan_prefixes;
mod leak_cause;
mod leak_packets;
mod local_networks;
mod local_rule;
mod loops;
mod many_tunnels;
mod metrics;
mod missing_resources;
mod native;
mod native_accounts;
mod native_address_limits;
mod native_attacks;
mod native_broker_address;
mod native_carriers;
mod native_crashes;
mod native_device_changes;
mod native_impaired_path;
mod native_path_mtu;
mod native_restart;
mod native_secrets;
mod native_underlay;
mod network_manager;
mod networkd;
mod on_leak;
mod outer_traffic;
mod outside_test;
mod page;
mod pins;
mod plan;
mod recursion;
mod reload;
mod reload_check;
mod replies;
mod saved_parameters;
mod status;
mod subtrees;
mod tampering;
mod top;
mod top_exit;
mod tunnel_gone;
mod two_providers;
mod unusual_routing;
mod watchdog;
mod wireguard;
mod without_daemon;
mod without_rules;
mod wrong_config;
mod xdp;
mod xdp_dispatcher;
