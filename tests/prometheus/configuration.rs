//! The sidecar's configuration folder: the demo's objects, one file each, and one of them as a mounted
//! ConfigMap.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use tempfile::TempDir;

/// Name under which the ConfigMap is mounted.
const MOUNT: &str = "mounted";

pub struct ConfigDir {
    dir: TempDir,
}

impl ConfigDir {
    /// `l40s.yaml`, `h100.yaml`, `thresholds.yaml`, `classes.yaml`, and `qwen.yaml` in the mount.
    pub fn new() -> Self {
        let config = ConfigDir { dir: tempfile::tempdir().expect("a temporary folder can be made") };
        for (file, mark) in [
            ("l40s.yaml", "name: llama-8b-l40s\n"),
            ("h100.yaml", "name: llama-8b-h100\n"),
            ("thresholds.yaml", "name: saturation-scaling-config\n"),
            ("classes.yaml", "name: service-classes-config\n"),
        ] {
            config.replace(file, &document(mark));
        }
        fs::create_dir(config.path().join(MOUNT)).expect("the folder is ours");
        config.remount(1, &document("name: qwen-14b-h100\n"));
        let link = config.path().join(MOUNT).join("qwen.yaml");
        symlink("..data/qwen.yaml", link).expect("links can be made");
        config
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path().join(file)).expect("the file is there")
    }

    /// Puts a new file in the old one's place at once, as editors do.
    pub fn replace(&self, file: &str, text: &str) {
        let fresh = self.path().join(format!(".{file}.new"));
        fs::write(&fresh, text).expect("the folder is ours");
        fs::rename(fresh, self.path().join(file)).expect("the folder is ours");
    }

    /// Writes over the file.
    pub fn overwrite(&self, file: &str, text: &str) {
        fs::write(self.path().join(file), text).expect("the folder is ours");
    }

    pub fn remove(&self, file: &str) {
        fs::remove_file(self.path().join(file)).expect("the file is there");
    }

    /// What a kubelet does when the ConfigMap changes: a new folder, and one link swapped to it.
    pub fn remount(&self, generation: u32, text: &str) {
        let mount = self.path().join(MOUNT);
        let folder = format!("..2026_{generation}");
        fs::create_dir(mount.join(&folder)).expect("the folder is ours");
        fs::write(mount.join(&folder).join("qwen.yaml"), text).expect("the folder is ours");
        symlink(&folder, mount.join("..data_tmp")).expect("links can be made");
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).expect("the folder is ours");
        if generation > 1 {
            fs::remove_dir_all(mount.join(format!("..2026_{}", generation - 1))).expect("the folder is ours");
        }
    }
}

/// The document of the demo's configuration that contains `mark`.
pub fn document(mark: &str) -> String {
    let all = include_str!("../../config/demo.yaml");
    all.split("\n---\n").find(|document| document.contains(mark)).expect("the demo has the object").to_owned()
}
