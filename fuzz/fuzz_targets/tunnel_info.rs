#![no_main]

use sixxs_fuzz::bodies::TARGETS;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for target in TARGETS.iter().filter(|target| target.name == "tunnel_info") {
        (target.body)(bytes);
    }
});
