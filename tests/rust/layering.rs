//! Each layer knows only those below it.
use std::fs;
use std::path::Path;

fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "{folder}");
    found
}

fn assert_free_of(folder: &str, forbidden: &[&str]) {
    for (path, source) in sources(folder) {
        for (number, line) in source.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in forbidden {
                assert!(!code.contains(word), "{path}:{}: `{word}` in `{line}`", number + 1);
            }
        }
    }
}

#[test]
fn protocol_is_pure() {
    let forbidden =
        ["tokio", "pyo3", "socket2", "std::net", "std::io", "Instant", "SystemTime", "crate::pool"];
    assert_free_of("protocol", &forbidden);
    assert_free_of(
        "protocol",
        &["crate::cluster", "crate::client", "crate::host", "crate::bridge"],
    );
}

#[test]
fn pool_knows_neither_cluster_nor_python() {
    assert_free_of("pool", &["pyo3", "crate::cluster", "crate::client", "crate::host"]);
    assert_free_of("pool", &["crate::bridge", "Python"]);
    // All time goes through the context, because a driven host must know when to run next.
    for (path, source) in sources("pool") {
        let own = path.ends_with("context.rs");
        assert!(own || !source.contains("tokio::time::sleep"), "{path} sleeps behind the context");
    }
}

/// A thread that waits for the interpreter while it holds a lock leaves it locked in the child of a
/// fork. Objects that are made during the import are made before any fork.
#[test]
fn bridge_makes_names_and_types_without_a_lock_of_pyo3() {
    for (path, source) in sources("bridge") {
        let is_exempt = path.ends_with("once.rs") || path.ends_with("mod.rs");
        for word in
            ["PyOnceLock", "pyo3::intern", "GILOnceCell", "pyo3::{import_exception, intern}"]
        {
            assert!(is_exempt || !source.contains(word), "{path} uses `{word}`: see once.rs");
        }
    }
}

#[test]
fn cluster_knows_no_python() {
    assert_free_of("cluster", &["pyo3", "crate::bridge", "Python", "tokio"]);
    assert_free_of("cluster", &["crate::client", "crate::host"]);
}

#[test]
fn client_knows_neither_hosts_nor_python() {
    assert_free_of("client", &["pyo3", "crate::host", "crate::bridge", "Python", "tokio"]);
}

/// A core that callers drive moves between threads: see the safety argument in `host/blocking.rs`.
#[test]
fn cores_keep_no_state_of_a_thread() {
    for folder in ["protocol", "pool", "cluster", "client"] {
        assert_free_of(folder, &["thread_local", "thread::current", "ThreadId"]);
    }
}

#[test]
fn hosts_know_no_python() {
    assert_free_of("host", &["pyo3", "crate::bridge", "Python"]);
}
