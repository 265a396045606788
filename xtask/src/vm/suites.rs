//! Owns the list of tests that must pass on an old kernel, and the script that runs them in the virtual
//! machine.

use super::image;

/// A test binary, and the selection of its tests.
pub(super) struct Suite {
    pub(super) binary: &'static str,
    /// Prefixes of test names; each must match a test. Empty: all tests.
    pub(super) only: &'static [&'static str],
    /// Parts of names of excluded tests, and the reason.
    pub(super) except: &'static [(&'static str, &'static str)],
    /// Its environment.
    pub(super) variables: &'static [(&'static str, &'static str)],
}

/// Features that this kernel must have; a test of a missing one fails.
const FEATURES: (&str, &str) = (
    "SIXXS_KERNEL_HAS",
    "gre,ip6gre,ip6tnl,sit,vrf,wireguard,xdp_dispatcher",
);

/// Longer limits for an emulated processor: with pings each 10 ms, a start of the daemon takes half a minute.
const PATIENCE: (&str, &str) = ("SIXXS_TEST_PATIENCE", "5");

/// The whole list.
pub(super) const WHOLE: &[Suite] = &[
    Suite {
        binary: "programs",
        only: &[],
        except: &[],
        variables: &[],
    },
    Suite {
        binary: "lab",
        only: &[],
        except: &[],
        variables: &[],
    },
    Suite {
        binary: "story",
        only: &[
            "replies::",
            "without_rules::",
            "without_daemon::",
            "on_leak::",
            "bound_socket::",
            "tunnel_gone::",
            "down::",
            "deprecation::address_kinds",
            "deprecation::undone",
            "exits::a_table_of_a_vrf",
            "status::",
            "reload::",
            "native::",
            "native_carriers::from_sit_to_a_tun_device_and_back",
            "outer_traffic::endpoints",
            "aiccu_commands::",
            "subtrees::from_rules_to_subtrees_and_back",
            "inside_test::",
            "outside_test::",
            "xdp::",
            "xdp_dispatcher::",
            "wireguard::",
        ],
        // Tests that measure time, or need much of it, are not in the list: `footprint`, and `subtrees`
        // with its ten thousand addresses.
        except: &[
            (
                "a_fight_over_rules",
                "counts repairs within seconds; an emulated processor is some ten times slower",
            ),
            (
                "a_passing_test_costs_little",
                "measures processor time; an emulated processor is some ten times slower",
            ),
            (
                "a_reverse_path_filter_is_named",
                "needs nft_fib_ipv6, which the machine has not",
            ),
            (
                "lost_packets_are_counted",
                "needs nft_numgen, which the machine has not",
            ),
            (
                "others_do_not_test",
                "needs the group daemon, which the machine has not",
            ),
        ],
        variables: &[FEATURES, PATIENCE],
    },
    GUIDES,
    CHAOS,
];

/// The short list, for `cargo xtask test vm short` and `cargo xtask test`: each way to attach, each kind of
/// tunnel, and some faults, within two minutes.
pub(super) const SHORT: &[Suite] = &[
    Suite {
        binary: "story",
        only: &[
            "replies::",
            "native::",
            "wireguard::every_reply_takes_its_tunnel",
            "exits::a_table_of_a_vrf",
            "outer_traffic::endpoints_of_the_kernels_tunnels",
            "xdp::forged_packets_are_dropped_in_the_driver",
            "xdp_dispatcher::in_the_driver",
        ],
        except: &[],
        variables: &[FEATURES, PATIENCE],
    },
    CHAOS,
];

/// Guides that need `sit` and WireGuard. The machine has no systemd-networkd.
const GUIDES: Suite = Suite {
    binary: "guides",
    only: &[
        "cases::hurricane_electric",
        "cases::wireguard",
        "cases::aiccu",
        "cases::routed_prefixes",
    ],
    except: &[],
    variables: &[],
};

/// Few faults with a longer limit each, because the emulated processor is slower.
const CHAOS: Suite = Suite {
    binary: "chaos",
    only: &["chaos_by_clsact"],
    except: &[],
    variables: &[("SIXXS_CHAOS_FAULTS", "20"), ("SIXXS_TEST_PATIENCE", "10")],
};

/// The script of the machine: it runs every suite, also after a failure.
pub(super) fn script(suites: &[Suite], filter: &[String]) -> String {
    let mut script = format!(
        "export SIXXS_BIN={}/sixxs RUST_BACKTRACE=0\nfailed=0\n",
        image::PAYLOAD
    );
    for suite in suites {
        let set = suite.variables.iter();
        let set: String = set
            .map(|(name, value)| format!("{name}={value} "))
            .collect();
        let mut line = format!("{set}{}/{} --test-threads=1", image::PAYLOAD, suite.binary);
        if filter.is_empty() {
            let skip = suite.except.iter().map(|(name, _why)| ["--skip", name]);
            for word in suite.only.iter().copied().chain(skip.flatten()) {
                line += &format!(" {word}");
            }
        } else {
            for word in filter {
                line += &format!(" '{}'", word.replace('\'', r"'\''"));
            }
        }
        script += &format!("echo; echo '== {}'\n{line} || failed=1\n", suite.binary);
    }
    script + "exit $failed\n"
}

/// Prefixes that no test name has.
pub(super) fn unmatched(suites: &[Suite], transcript: &str) -> Vec<&'static str> {
    let begins = |name: &&str| !transcript.contains(&format!("\ntest {name}"));
    let names = suites.iter().flat_map(|suite| suite.only.iter().copied());
    names.filter(begins).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUITES: &[Suite] = &[Suite {
        binary: "story",
        only: &["a::", "b::c"],
        except: &[("slow", "it is slow")],
        variables: &[("A", "1")],
    }];

    #[test]
    fn the_list_becomes_a_script() {
        let script = script(SUITES, &[]);
        let line = "\nA=1 /test/story --test-threads=1 a:: b::c --skip slow || failed=1\n";
        assert!(script.contains(line), "{script}");
        assert!(script.ends_with("exit $failed\n"), "{script}");
    }

    #[test]
    fn a_filter_takes_the_list_s_place() {
        let script = script(SUITES, &["it's".to_owned()]);
        let line = r"/test/story --test-threads=1 'it'\''s' || failed=1";
        assert!(script.contains(line), "{script}");
    }

    #[test]
    fn names_that_match_nothing_are_found() {
        let transcript = "running 1 test\ntest a::x ... ok\n";
        assert_eq!(unmatched(SUITES, transcript), ["b::c"]);
    }
}
