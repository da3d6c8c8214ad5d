"""What several tests share: file systems that fail, power cuts, storms, servers."""
