#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sixxs_fuzz::bodies::endpoint_update(bytes));
