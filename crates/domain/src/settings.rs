//! Names of the environment variables that begin with WRENN_, of all programs: a name none of them knows is a mistake that must be said.
//!
//! A program takes its own settings from its own list, next to its reader; this list only tells a setting of another program, which a shared
//! `.env` may hold, from a misspelt one.

/// Prefix of every name of ours. A distribution's own variables begin with something else.
const PREFIX: &str = "WRENN_";

/// Prefix of names that only tests read.
const TESTS: &str = "WRENN_TEST_";

/// Every variable of every program.
pub const KNOWN: &[&str] = &[
    // wrenn-cp
    "WRENN_CA_CERT",
    "WRENN_CA_KEY",
    "WRENN_CHANNELS_ALLOW_PRIVATE",
    "WRENN_CP_CONNECTIONS",
    "WRENN_CP_DB_CONNECTIONS",
    "WRENN_CP_DB_WAIT_MS",
    "WRENN_CP_LISTEN_ADDR",
    "WRENN_DISK_OVERCOMMIT",
    "WRENN_ENCRYPTION_KEY",
    "WRENN_ENV_FILE",
    "WRENN_LOG_FORMAT",
    "WRENN_MAIL_DIR",
    "WRENN_PORTS_SAME_SITE",
    "WRENN_REDIS_PREFIX",
    "WRENN_SIGNUP",
    "WRENN_TRUSTED_PROXIES",
    // wrenn-cp and wrenn-agent
    "WRENN_DIR",
    "WRENN_HOST_TOKEN",
    // wrenn-agent
    "WRENN_ALLOW_TCG",
    "WRENN_DNS",
    "WRENN_EGRESS_ALLOW",
    "WRENN_FAULTS",
    "WRENN_GUEST_FLOWS",
    "WRENN_GUEST_MBIT_PER_SECOND",
    "WRENN_GUEST_PACKETS_PER_SECOND",
    "WRENN_HOST_LISTEN_ADDR",
    "WRENN_NETWORK_RANGE",
    "WRENN_PREPARE_MEMORY",
    "WRENN_PROXY_DOMAIN",
    "WRENN_QEMU_BIN",
    "WRENN_SLOT_POOL",
    "WRENN_SPARE_VMS",
    "WRENN_STORE_SIZE",
    // wrenn
    "WRENN_ADMIN_EMAIL",
    "WRENN_ADMIN_PASSWORD",
    "WRENN_API_KEY",
    "WRENN_BASE_URL",
    "WRENN_CONTEXT",
    "WRENN_CONTEXTS",
    "WRENN_DEV_DIR",
    "WRENN_GUEST_DIR",
    // inside a sandbox, where a program of ours may run as well
    "WRENN_SANDBOX",
    "WRENN_SANDBOX_ID",
    "WRENN_TEMPLATE_ID",
    // building images
    "WRENN_DEBIAN_MIRROR",
    "WRENN_VMM",
];

/// Whether a variable carries our prefix but is known to no program.
pub fn is_unknown(name: &str) -> bool {
    name.starts_with(PREFIX) && !name.starts_with(TESTS) && !KNOWN.contains(&name)
}

/// Words the refusal of an unknown variable, to follow its name: that it is no setting, which one may be meant, and where all are listed.
pub fn refusal_of_unknown(name: &str) -> String {
    let hint = nearest(name).map(|nearest| format!(" (did you mean {nearest}?)")).unwrap_or_default();
    format!("is no setting of Wrenn{hint}; see .env.example")
}

/// The known name that is spelt most like a misspelt one, when it differs in at most a third of its letters.
fn nearest(name: &str) -> Option<&'static str> {
    let found = KNOWN.iter().map(|known| (distance(name, known), *known)).min()?;
    (found.0 <= name.len() / 3).then_some(found.1)
}

/// Letters to be added, removed or replaced to make one text of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut before = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = before + usize::from(from != *to);
            before = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_unknown_and_the_nearest_one_is_found() {
        for known in ["WRENN_DIR", "WRENN_TEST_SKIP", "PATH", "DATABASE_URL", "wrenn_dir"] {
            assert!(!is_unknown(known), "{known}");
        }
        for (wrong, right) in [
            ("WRENN_DRI", Some("WRENN_DIR")),
            ("WRENN_CP_LISTEN", Some("WRENN_CP_LISTEN_ADDR")),
            ("WRENN_HOST_TOKENS", Some("WRENN_HOST_TOKEN")),
            ("WRENN_ENTIRELY_DIFFERENT_THING", None),
            ("WRENN_", None),
        ] {
            assert!(is_unknown(wrong), "{wrong}");
            assert_eq!(nearest(wrong), right, "{wrong}");
            let hint = right.map(|right| format!(" (did you mean {right}?)")).unwrap_or_default();
            assert_eq!(refusal_of_unknown(wrong), format!("is no setting of Wrenn{hint}; see .env.example"));
        }
    }
}
