#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ringback::entry_points::read("ari_answer", bytes));
