curve();
table();
kinds();
browser();
