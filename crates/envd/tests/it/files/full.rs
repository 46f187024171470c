//! A disk that is full.

use wrenn_testkit::SmallDisk;

use super::*;

#[tokio::test]
async fn a_full_disk_is_said_and_leaves_the_old_file() {
    let envd = Envd::start().await;
    let disk = SmallDisk::mount(&envd.home.path().join("small"), 1024 * 1024);
    let (old, new) = (disk.path.join("old"), disk.path.join("new"));
    assert_eq!(put(&envd, &old, "old").await.status, 200);
    for path in [&old, &new] {
        for bytes in [2_000_000, 12_000_000] {
            let answer = put(&envd, path, vec![1; bytes]).await;
            assert_eq!(answer.status, 507, "{answer:?}");
            assert!(answer.json()["message"].as_str().unwrap().contains("No space left"), "{answer:?}");
        }
    }
    let bomb = super::conditional::pack(&vec![0; 50_000_000]).await;
    let answer = envd.call(http::Method::PUT, &uri(&new), &[("content-encoding", "gzip")], bomb).await;
    assert_eq!(answer.status, 507, "{answer:?}");
    assert_eq!(fs::read_to_string(&old).unwrap(), "old");
    assert_eq!(names(&disk.path), ["old"]);
    // And the room is free again.
    assert_eq!(put(&envd, &new, vec![1; 500_000]).await.status, 200);
}

#[tokio::test]
async fn a_client_that_sends_far_too_much_still_sees_why_it_was_refused() {
    let envd = Envd::start().await;
    let disk = SmallDisk::mount(&envd.home.path().join("small"), 1024 * 1024);
    for _ in 0..5 {
        let (status, body) = super::large::upload(&envd, &disk.path.join("file"), 100, &noise(1024 * 1024)).await;
        assert_eq!(status, 507, "{body:?}");
    }
    assert_eq!(names(&disk.path).len(), 0);
}

#[tokio::test]
async fn moving_onto_a_full_disk_loses_nothing() {
    use connectrpc::ErrorCode;
    use wrenn_contract::proto::filesystem::MoveRequest;
    let envd = Envd::start().await;
    let disk = SmallDisk::mount(&envd.home.path().join("small"), 1024 * 1024);
    let (from, to) = (envd.home.path().join("file"), disk.path.join("file"));
    let ask = |from: &Path, to: &Path| MoveRequest {
        source: from.to_str().unwrap().into(),
        destination: to.to_str().unwrap().into(),
        ..Default::default()
    };
    let bytes = noise(2_000_000);
    fs::write(&from, &bytes).unwrap();
    let refused = envd.filesystem().r#move(ask(&from, &to)).await.map(drop).expect_err("too large");
    assert_eq!(refused.code, ErrorCode::ResourceExhausted, "{refused:?}");
    assert!(fs::read(&from).unwrap() == bytes);
    assert_eq!(names(&disk.path).len(), 0);
    // What fits goes over, with its mode.
    fs::write(&from, &bytes[..600_000]).unwrap();
    chmod(&from, 0o750);
    envd.filesystem().r#move(ask(&from, &to)).await.unwrap();
    assert!(!from.exists());
    assert!(fs::read(&to).unwrap() == bytes[..600_000]);
    assert_eq!(mode(&to), 0o750);
    // A directory does not.
    fs::create_dir(envd.home.path().join("dir")).unwrap();
    let refused =
        envd.filesystem().r#move(ask(&envd.home.path().join("dir"), &disk.path.join("dir"))).await.err().unwrap();
    assert_eq!(refused.code, ErrorCode::FailedPrecondition, "{refused:?}");
}
