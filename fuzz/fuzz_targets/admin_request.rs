#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringback::api::entry_points::read("admin_request", bytes));
