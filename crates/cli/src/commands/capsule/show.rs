//! Capsules as people read them.

use wrenn_contract::rest::capsules::{Capsule, CapsuleStatus};

use crate::output::{plain, table};

/// Name of a state, as the API writes it.
pub fn word(status: CapsuleStatus) -> String {
    serde_json::to_value(status)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_else(|| format!("{status:?}"))
}

/// Lists capsules as a table.
pub fn list(capsules: &[Capsule]) -> String {
    if capsules.is_empty() {
        return "No capsules. `wrenn capsule create` makes one.".to_owned();
    }
    let rows: Vec<Vec<String>> = capsules
        .iter()
        .map(|c| {
            vec![
                c.id.clone(),
                word(c.status),
                plain(&c.template),
                c.vcpus.to_string(),
                format!("{} MiB", c.memory_mb),
                c.created_at.format("%Y-%m-%d %H:%M:%SZ").to_string(),
            ]
        })
        .collect();
    table(&["ID", "STATUS", "TEMPLATE", "VCPUS", "MEMORY", "CREATED"], &rows)
}

/// Describes one capsule, a line for each of its properties.
pub fn describe(c: &Capsule) -> String {
    let time = |t: &chrono::DateTime<chrono::Utc>| t.format("%Y-%m-%d %H:%M:%SZ").to_string();
    let mut rows = vec![
        ("id", c.id.clone()),
        ("status", word(c.status)),
        ("template", plain(&c.template)),
        ("vcpus", c.vcpus.to_string()),
        ("memory", format!("{} MiB", c.memory_mb)),
        (
            "disk",
            match c.disk_used_mb {
                Some(used) => format!("{} MiB, {used} MiB in use", c.disk_size_mb),
                None => format!("{} MiB", c.disk_size_mb),
            },
        ),
        ("time-out", if c.timeout_sec == 0 { "never".into() } else { format!("{} s", c.timeout_sec) }),
        ("created", time(&c.created_at)),
    ];
    if let Some(started) = &c.started_at {
        rows.push(("started", time(started)));
    }
    if let Some(active) = &c.last_active_at {
        rows.push(("last active", time(active)));
    }
    if let Some(error) = &c.error {
        rows.push(("error", plain(error)));
    }
    for (key, value) in &c.metadata {
        rows.push(("metadata", format!("{}={}", plain(key), plain(value))));
    }
    rows.iter().map(|(key, value)| format!("{key:12} {value}")).collect::<Vec<_>>().join("\n")
}
