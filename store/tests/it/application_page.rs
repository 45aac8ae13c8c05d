//! The page for applications: its Rust is compiled, because it stands word for word in the example.
use std::fs;
use std::path::Path;

#[test]
fn every_snippet_of_the_page_is_cut_out_of_the_example() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = fs::read_to_string(root.join("docs/APPLICATION.md")).unwrap();
    let example: Vec<String> = fs::read_dir(root.join("examples/orders"))
        .unwrap()
        .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    let snippets: Vec<&str> = page.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(snippets.len() > 10, "the page has lost its snippets");
    for snippet in snippets {
        assert!(example.iter().any(|file| file.contains(snippet)), "not in the example:\n{snippet}");
    }
}
