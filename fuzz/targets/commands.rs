//! A command that was encoded and not sent is read back, and sent on another connection: it is
//! encoded in the same bytes there.
#![no_main]

use _emcache::protocol::{OwnedCommand, OwnedRequest};
use emcache_fuzz::{Wanted, dialect, encoded};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, Wanted)| {
    let (is_binary, wanted) = input;
    let Some(OwnedRequest::Command(command)) = wanted.request() else { return };
    let mut dialect = dialect(is_binary);
    let (wire, expected) = encoded(&mut dialect, &command);
    let Some(read) = dialect.decode_command(&wire, expected) else {
        // A no-op is in their place: the client refuses them for such nodes.
        assert!(is_binary && matches!(command, OwnedCommand::Meta { .. }), "{command:?}");
        return;
    };
    if !is_binary {
        assert_eq!(read, command);
    }
    let (again, _) = encoded(&mut dialect.restarted(), &read);
    assert_eq!(again, wire);
});
