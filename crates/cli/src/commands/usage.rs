//! `wrenn usage`: what the team used, by day.

use clap::Args;
use wrenn_contract::rest::usage::Usage;

use crate::api::Client;
use crate::output::{Output, table};

#[derive(Debug, Args)]
pub struct UsageArgs {
    /// First day, YYYY-MM-DD (UTC).
    #[arg(long, value_name = "DAY", value_parser = day)]
    from: Option<chrono::NaiveDate>,
    /// Last day; today when absent.
    #[arg(long, value_name = "DAY", value_parser = day)]
    to: Option<chrono::NaiveDate>,
}

fn day(text: &str) -> Result<chrono::NaiveDate, String> {
    chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").map_err(|_| "a day is YYYY-MM-DD".to_owned())
}

/// Shows the days that had any use, and their sum.
///
/// # Errors
/// The server refuses or cannot be reached.
pub async fn run(args: UsageArgs, client: &Client, output: &Output) -> anyhow::Result<u8> {
    let days = [("from", args.from), ("to", args.to)];
    let query: Vec<String> =
        days.iter().filter_map(|(name, day)| day.map(|day| format!("{name}={}", day.format("%Y-%m-%d")))).collect();
    let usage: Usage = client.get(&format!("/v1/capsules/usage?{}", query.join("&"))).await?;
    output.result(&usage, || {
        let used = usage.points.iter().filter(|point| point.cpu_minutes > 0.0 || point.ram_mb_minutes > 0.0);
        let mut rows: Vec<Vec<String>> =
            used.map(|point| row(&point.date.to_string(), point.cpu_minutes, point.ram_mb_minutes)).collect();
        let sum = |of: fn(&wrenn_contract::rest::usage::UsagePoint) -> f64| usage.points.iter().map(of).sum::<f64>();
        rows.push(row("all", sum(|point| point.cpu_minutes), sum(|point| point.ram_mb_minutes)));
        table(&["DAY", "VCPU HOURS", "MEMORY GIB HOURS"], &rows)
    });
    Ok(0)
}

fn row(name: &str, cpu_minutes: f64, ram_mb_minutes: f64) -> Vec<String> {
    vec![name.to_owned(), format!("{:.2}", cpu_minutes / 60.0), format!("{:.2}", ram_mb_minutes / 60.0 / 1024.0)]
}
