//! Parts of replies and of arguments that are parsed by themselves.
#![no_main]

use _emcache::protocol::meta::{DebugInfo, MetaAttributes, MetaKey, Version};
use _emcache::protocol::{Key, Words};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let is_key = (1..=250).contains(&bytes.len()) && bytes.iter().all(|b| *b > 0x20 && *b != 0x7f);
    match Key::parse(bytes) {
        Ok(key) => assert!(is_key && key.as_bytes() == bytes),
        Err(error) => assert!(!is_key && !error.to_string().is_empty()),
    }
    if let Ok(key) = MetaKey::parse(bytes) {
        assert!(!bytes.is_empty() && bytes.len() <= 250);
        assert_eq!(key.is_base64(), !is_key);
        assert!(Key::parse(key.as_key().as_bytes()).is_ok());
        assert!(is_key || bytes.len() <= 186);
    } else {
        assert!(!is_key);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(words) = Words::parse(text)
    {
        assert!(!words.as_str().contains(['\r', '\n', '\0']) && words.as_str().len() <= 250);
    }
    let _ = MetaAttributes::parse(bytes);
    let _ = DebugInfo::parse(bytes);
    let _ = Version::parse(bytes);
});
