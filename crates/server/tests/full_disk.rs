//! A disk that is full, as clients meet it: writes are refused with a Status that says why, reads go on, nothing refused is
//! half there, and once there is room again everything works without a restart.

#[path = "../../store/tests/disk/mod.rs"]
mod disk;
mod server_under_test;

use disk::Disk;
use http::Method;
use serde_json::{Value, json};
use server_under_test::UnderTest;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"text": "x".repeat(100_000)}})
}

async fn post(test: &UnderTest, name: &str) -> (u16, Value) {
    test.call(Method::POST, MAPS, "application/json", map(name).to_string()).await
}

#[track_caller]
fn refused(code: u16, status: &Value) {
    assert_eq!((code, &status["kind"], &status["reason"]), (503, &json!("Status"), &json!("ServiceUnavailable")), "{status}");
    assert_eq!(status["message"], "the disk of the store is full");
}

async fn names(test: &UnderTest) -> Vec<String> {
    let list = test.get(MAPS).await;
    list["items"].as_array().unwrap().iter().map(|one| one["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_refused_and_reads_go_on_until_there_is_room() {
    let Some(disk) = Disk::new(c"size=32m") else { return };
    let test = UnderTest::start_in(tempfile::tempdir_in(disk.path()).unwrap(), server::Security::default()).await;
    test.create(MAPS, &map("before")).await;
    let neighbour = disk.fill();

    // What space the store had reserved is used up first.
    let mut there = names(&test).await;
    let first = loop {
        let name = format!("map-{:03}", there.len());
        match post(&test, &name).await {
            (201, _) => there.push(name),
            (code, status) => {
                refused(code, &status);
                break name;
            }
        }
        assert!(there.len() < 200, "the disk has no end");
    };
    there.sort();
    for number in 0..5 {
        let (code, status) = post(&test, &format!("refused-{number}")).await;
        refused(code, &status);
    }
    let more = json!({"data": {"more": "y".repeat(100_000)}}).to_string();
    let (code, status) = test.call(Method::PATCH, &format!("{MAPS}/before"), "application/merge-patch+json", more.clone()).await;
    refused(code, &status);

    assert_eq!(names(&test).await, there, "what was acknowledged is there, and nothing else");
    let before = test.get(&format!("{MAPS}/before")).await;
    assert_eq!((before["data"]["text"].as_str().unwrap().len(), &before["data"]["more"]), (100_000, &Value::Null));
    let (code, _) = test.call(Method::GET, &format!("{MAPS}/{first}"), "application/json", "").await;
    assert_eq!(code, 404);

    std::fs::remove_file(&neighbour).unwrap();
    test.create(MAPS, &map(&first)).await;
    let (code, after) = test.call(Method::PATCH, &format!("{MAPS}/before"), "application/merge-patch+json", more).await;
    assert_eq!((code, after["data"]["more"].as_str().map(str::len)), (200, Some(100_000)));
    there.push(first);
    there.sort();
    assert_eq!(names(&test).await, there);
}
