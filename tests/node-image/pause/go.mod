module sluice/node-image/pause

go 1.24.0
